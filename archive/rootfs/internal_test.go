package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
)

func TestCleanName(t *testing.T) {
	long := strings.Repeat("n", MaxComponentBytes)
	deep := strings.TrimSuffix(strings.Repeat("n/", MaxDepth), "/")
	whole := strings.Repeat(long[:127]+"/", MaxNameBytes/128) + strings.Repeat("n", MaxNameBytes%128)
	for _, test := range []struct {
		name, want string
		rejected   bool
	}{
		{"a", "a", false},
		{"a/b/", "a/b", false},
		{"/a", "a", false},
		{"./a", "a", false},
		{"//a/.//b/./", "a/b", false},
		{"", "", false},
		{"/", "", false},
		{"./", "", false},
		{"...", "...", false},
		{"..a/b..", "..a/b..", false},
		{" \n\xff", " \n\xff", false},
		{"..", "", true},
		{"a/..", "", true},
		{"a/../b", "", true},
		{"/../a", "", true},
		{"a\x00b", "", true},
		{long, long, false},
		{long + "n", "", true},
		{deep, deep, false},
		{deep + "/n", "", true},
		{whole, whole, false},
		{whole + "n", "", true},
	} {
		got, err := cleanName(test.name)
		if got != test.want || errors.Is(err, archive.ErrRejected) != test.rejected {
			t.Errorf("%s: %s, %v, want %s, rejected %v", archive.QuoteName(test.name),
				archive.QuoteName(got), err, archive.QuoteName(test.want), test.rejected)
		}
	}
}

func TestCompareNames(t *testing.T) {
	want := []string{"", "a", "a/b", "a/b/c", "a/c", "a b", "a!", "a.b", "a.b/c", "b"}
	slices.SortFunc(want, func(x, y string) int {
		return strings.Compare(strings.ReplaceAll(x, "/", "\x00"), strings.ReplaceAll(y, "/", "\x00"))
	})
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, compareNames)
	if !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
}

func TestCarriedXattr(t *testing.T) {
	for name, want := range map[string]bool{
		"user.x": true, "security.capability": true, "security.ima": true,
		"system.posix_acl_access": true, "system.posix_acl_default": true,
		"user.overlay.opaque": false, "trusted.overlay.opaque": false, "trusted.x": false,
		"security.selinux": false, "security.evm": false, "security.SMACK64EXEC": false, "system.nfs4_acl": false, "": false,
	} {
		if got := carriedXattr(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

func TestXattrLimits(t *testing.T) {
	many := func(n, size int) map[string]string {
		x := map[string]string{}
		for i := range n {
			x[fmt.Sprintf("user.%05d", i)] = strings.Repeat("v", size-10)
		}
		return x
	}
	for _, test := range []struct {
		name   string
		xattrs map[string]string
		ok     bool
	}{
		{"none", nil, true},
		{"largest", map[string]string{"user.x": strings.Repeat("v", MaxXattrBytes)}, true},
		{"too large", map[string]string{"user.x": strings.Repeat("v", MaxXattrBytes+1)}, false},
		{"most", many(MaxXattrs, 10), true},
		{"too many", many(MaxXattrs+1, 10), false},
		{"largest sum", many(MaxXattrsBytes/8192, 8192), true},
		{"sum too large", many(MaxXattrsBytes/8192+1, 8192), false},
		{"longest name", map[string]string{"user." + strings.Repeat("n", MaxComponentBytes-5): ""}, true},
		{"name too long", map[string]string{"user." + strings.Repeat("n", MaxComponentBytes-4): ""}, false},
		{"name that no header holds", map[string]string{"user.a=b": ""}, false},
	} {
		if err := checkXattrs(test.xattrs); (err == nil) != test.ok {
			t.Errorf("%s: %v, want accepted %v", test.name, err, test.ok)
		}
	}
	// What the writer accepts, archive/tar must be able to read again.
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	h := header(attr{}, many(MaxXattrsBytes/8192, 8192))
	h.Typeflag, h.Name = tar.TypeReg, "x"
	if err := errors.Join(tw.WriteHeader(h), tw.Close()); err != nil {
		t.Fatal(err)
	}
	s, err := newStream(t.Context(), &buf)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	e, err := s.next()
	if got, want := len(e.xattrs), MaxXattrsBytes/8192; err != nil || got != want {
		t.Errorf("%d attributes, %v, want %d", got, err, want)
	}
}

func TestEntryLimit(t *testing.T) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for i := range 4 {
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	for most, want := range map[int]bool{3: true, 4: false} {
		s, err := newStream(t.Context(), bytes.NewReader(buf.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		s.most = most
		for err == nil {
			_, err = s.next()
		}
		s.close()
		if got := errors.Is(err, archive.ErrRejected); got != want || (!want && !errors.Is(err, io.EOF)) {
			t.Errorf("4 entries of %d: %v, want a rejection: %v", most, err, want)
		}
	}
	for _, test := range []struct {
		n  int
		ok bool
	}{{2 * MaxEntries, true}, {2*MaxEntries + 1, false}} {
		list := slices.Repeat([]string{"a"}, test.n)
		if _, err := checkDeleted(list); (err == nil) != test.ok {
			t.Errorf("%d deletions: %v, want accepted %v", test.n, err, test.ok)
		}
	}
}

func TestParseOverlay(t *testing.T) {
	for _, test := range []struct {
		options string
		upper   string
		lowers  []string
	}{
		{"rw,lowerdir=/a:/b,upperdir=/u,workdir=/w,uuid=on", "/u", []string{"/a", "/b"}},
		{"ro,lowerdir=/a:/b", "", []string{"/a", "/b"}},
		{`rw,lowerdir=/a\134:b:/c\134\054d\040e,upperdir=/u\134:u`, "/u:u", []string{"/a:b", "/c,d e"}},
		{"rw,lowerdir+=/a:b,lowerdir+=/c,upperdir=/u", "/u", []string{"/a:b", "/c"}},
		{"rw,lowerdir=/a:b:/c,upperdir=/u", "", nil},   // relative
		{"rw,lowerdir=l1:l2,upperdir=/u", "", nil},     // relative, as containerd writes long lists
		{"rw,lowerdir=/a,upperdir=u", "", nil},         // relative
		{"rw,lowerdir=/a::/data,upperdir=/u", "", nil}, // data-only
		{"rw,lowerdir+=/a,datadir+=/data,upperdir=/u", "", nil},
		{"rw,relatime", "", nil},
		{"rw,lowerdir=", "", nil},
		{`rw,lowerdir=/a\`, "", []string{`/a\`}},
		{`rw,lowerdir=/a\13`, "", []string{`/a13`}},
	} {
		upper, lowers, ok := parseOverlay(test.options)
		if upper != test.upper || !slices.Equal(lowers, test.lowers) || ok != (test.lowers != nil) {
			t.Errorf("%s: %q, %q, %v, want %q, %q", test.options, upper, lowers, ok, test.upper, test.lowers)
		}
	}
}
