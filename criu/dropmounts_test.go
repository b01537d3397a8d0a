package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fh"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fsnotify"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/regfile"
	sk_opts "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-opts"
	sk_unix "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-unix"
	"google.golang.org/protobuf/proto"
)

// The mounts that are looked at are bounded, as those of a restore are.
func TestDropOfManyMounts(t *testing.T) {
	const hosts = "/etc/hosts"
	var many []*mnt.MntEntry
	for id := uint32(2); id <= 20*maxMounts; id++ {
		many = append(many, mount(mnt.Fstype_TMPFS, id, 10, hosts, hosts))
	}
	began := time.Now()
	dropped, err := DropMounts(mountsDir(t, many...), []string{hosts})
	if took := time.Since(began); err != nil || len(dropped) > 0 || took > 30*time.Second {
		t.Errorf("dropped %q of %d mounts in %v: %v", dropped, len(many), took, err)
	}
}

// A mount goes from the images unless something else in them depends on it.
func TestDropMounts(t *testing.T) {
	const env, secrets, hosts = "/run/.containerenv", "/run/secrets", "/etc/hosts"
	z := proto.Uint32(0)
	for name, c := range map[string]struct {
		mounts []*mnt.MntEntry
		file   *fdinfo.FileEntry
		want   []string
	}{
		"unused": {want: []string{env, secrets}},
		"a file is open": {
			file: &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Reg: &regfile.RegFileEntry{
				Id: z, Flags: z, Pos: proto.Uint64(0), Fown: owner(), Name: proto.String(env), MntId: proto.Int32(3),
			}},
			want: []string{secrets},
		},
		"a socket is bound": {
			file: &fdinfo.FileEntry{Type: fdinfo.FdTypes_UNIXSK.Enum(), Usk: &sk_unix.UnixSkEntry{
				Id: z, Ino: z, Type: z, State: z, Flags: z, Uflags: z, Backlog: z, Peer: z, Fown: owner(), Opts: options(), Name: []byte{}, MntId: proto.Int32(4),
			}},
			want: []string{env},
		},
		"something on the device is watched": {
			file: &fdinfo.FileEntry{Type: fdinfo.FdTypes_INOTIFY.Enum(), Ify: &fsnotify.InotifyFileEntry{
				Id: z, Flags: z, Fown: owner(), Wd: []*fsnotify.InotifyWdEntry{watchOn(41)},
			}},
			want: []string{env},
		},
		"a mount is below": {
			mounts: []*mnt.MntEntry{func() *mnt.MntEntry {
				m := mount(mnt.Fstype_TMPFS, 9, 90, secrets+"/deep", "")
				m.ParentMntId = proto.Uint32(4)
				return m
			}()},
			want: []string{env},
		},
		"a mount follows it": {
			mounts: []*mnt.MntEntry{func() *mnt.MntEntry {
				m := mount(mnt.Fstype_AUTO, 9, 90, "/copy", "")
				m.MasterId = proto.Uint32(77)
				return m
			}()},
			want: []string{secrets},
		},
		"not external": {
			mounts: []*mnt.MntEntry{mount(mnt.Fstype_TMPFS, 9, 90, hosts+".d", "")},
			want:   []string{env, secrets},
		},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := mount(mnt.Fstype_AUTO, 3, 40, env, env), mount(mnt.Fstype_AUTO, 4, 41, secrets, secrets)
			first.SharedId = proto.Uint32(77)
			kept := mount(mnt.Fstype_AUTO, 5, 42, hosts, hosts)
			dir := mountsDir(t, append([]*mnt.MntEntry{first, second, kept}, c.mounts...)...)
			if c.file != nil {
				c.file.Id = proto.Uint32(1)
				must(t, os.WriteFile(filepath.Join(dir, FilesImage), encode(t, magicFiles, c.file), 0o600))
			}
			got, err := DropMounts(dir, []string{env, secrets, hosts + ".d"})
			must(t, err)
			if !slices.Equal(got, c.want) {
				t.Errorf("dropped %q, want %q", got, c.want)
			}
			want := []proto.Message{mount(mnt.Fstype_OVERLAYFS, 1, 10, "/", "/")}
			for _, m := range append([]*mnt.MntEntry{first, second, kept}, c.mounts...) {
				if !slices.Contains(c.want, m.GetMountpoint()) {
					want = append(want, m)
				}
			}
			b, err := os.ReadFile(filepath.Join(dir, "mountpoints-7.img"))
			must(t, err)
			if !bytes.Equal(b, encode(t, magicMounts, want...)) {
				t.Error("the other mounts are not what they were")
			}
		})
	}
}

func watchOn(device uint32) *fsnotify.InotifyWdEntry {
	z := proto.Uint32(0)
	return &fsnotify.InotifyWdEntry{
		Id: z, IIno: proto.Uint64(1), Mask: z, IgnoredMask: z, SDev: &device, Wd: z, FHandle: &fh.FhEntry{Bytes: z, Type: z},
	}
}

func owner() *fown.FownEntry {
	z := proto.Uint32(0)
	return &fown.FownEntry{Uid: z, Euid: z, Signum: z, PidType: z, Pid: z}
}

func options() *sk_opts.SkOptsEntry {
	z, long := proto.Uint32(0), proto.Uint64(0)
	return &sk_opts.SkOptsEntry{SoSndbuf: z, SoRcvbuf: z, SoSndTmoSec: long, SoSndTmoUsec: long, SoRcvTmoSec: long, SoRcvTmoUsec: long}
}
