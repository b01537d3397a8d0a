package archive_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
)

func TestDecodeJSON(t *testing.T) {
	type config struct {
		ID      string         `json:"id"`
		Members []string       `json:"members"`
		Rest    map[string]any `json:"rest"`
	}
	nested := func(n int) string {
		return `{"rest":{"x":` + strings.Repeat("[", n-2) + strings.Repeat("]", n-2) + `}}`
	}
	long := func(n int) string {
		const frame = len(`{"id":""}`)
		return `{"id":"` + strings.Repeat("x", n-frame) + `"}`
	}
	for name, c := range map[string]struct {
		accept bool
		json   string
	}{
		"plain":                 {true, `{"id":"c1","members":["a","b"]}`},
		"white space":           {true, " \n{\"id\" : \"c1\"}\n\n"},
		"unknown fields":        {true, `{"id":"c1","newer":{"a":[1,{"b":null}]}}`},
		"same key, other level": {true, `{"id":"c1","rest":{"id":{"id":1}},"members":["id","id"]}`},
		"null member":           {true, `{"id":null}`},
		"escapes":               {true, `{"id":"\u0063\ud83d\ude00"}`},
		"depth at limit":        {true, nested(archive.MaxJSONDepth)},
		"depth over limit":      {false, nested(archive.MaxJSONDepth + 1)},
		"json-config-deep":      {false, strings.Repeat("[", 1_000_000)},
		"length at limit":       {true, long(archive.MaxJSONBytes)},
		"length over limit":     {false, long(archive.MaxJSONBytes + 1)},
		"json-spec-empty":       {false, ""},
		"only white space":      {false, " \n"},
		"json-config-truncated": {false, `{"id":"c1","memb`},
		"cut before the end":    {false, `{"id":"c1"`},
		"json-config-null":      {false, "null"},
		"null with space":       {false, " null\n"},
		"wrong type":            {false, `{"id":1}`},
		"wrong outer type":      {false, `[{"id":"c1"}]`},
		"dup keys":              {false, `{"id":"a","id":"b"}`},
		"json-config-dup-keys":  {false, `{"id":"a","ID":"b"}`},
		"dup keys by escape":    {false, `{"id":"a","\u0069d":"b"}`},
		"dup keys by long s":    {false, `{"members":[],"member` + "\u017f" + `":["x"]}`},
		"dup keys by Kelvin":    {false, `{"rest":{"k":1,"` + "\u212a" + `":2}}`},
		"dup keys below":        {false, `{"rest":{"a":[{"b":1,"c":[],"B":2}]}}`},
		"dup empty keys":        {false, `{"":1,"":2}`},
		"json-config-utf8":      {false, "{\"id\":\"\xff\"}"},
		"data after":            {false, `{"id":"a"}{"id":"b"}`},
		"garbage after":         {false, `{"id":"a"} x`},
		"comma":                 {false, `{"id":"a",}`},
		"comment":               {false, `{"id":"a"/*b*/}`},
		"no quotes":             {false, `{id:"a"}`},
		"NaN":                   {false, `{"rest":{"a":NaN}}`},
	} {
		t.Run(name, func(t *testing.T) {
			var v config
			err := archive.DecodeJSON("config.dump", []byte(c.json), &v)
			if c.accept && err != nil {
				t.Errorf("got %v, want it accepted", err)
			}
			var at *archive.EntryError
			if !c.accept && (!errors.Is(err, archive.ErrRejected) || !errors.As(err, &at) || at.Name != "config.dump") {
				t.Errorf("got %v, want an ErrRejected of config.dump", err)
			}
		})
	}
}

const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseMetadata(t *testing.T) {
	member := func(name string, size int, sum string) string {
		return fmt.Sprintf(`{"formatVersion":1,"members":[{"name":"a","size":0,"sha256":%q},{"name":%q,"size":%d,"sha256":%q}]}`, digest, name, size, sum)
	}
	for name, c := range map[string]struct {
		accept bool
		json   string
	}{
		"members":             {true, member("b", 0, digest)},
		"no members":          {true, `{"formatVersion":1}`},
		"unknown fields":      {true, `{"formatVersion":1,"later":{"x":1}}`},
		"no version":          {false, `{}`},
		"version zero":        {false, `{"formatVersion":0}`},
		"negative version":    {false, `{"formatVersion":-1}`},
		"later version":       {false, fmt.Sprintf(`{"formatVersion":%d}`, archive.FormatVersion+1)},
		"version as a string": {false, `{"formatVersion":"1"}`},
		"null":                {false, `null`},
		"empty":               {false, ``},
		"member twice":        {false, member("a", 0, digest)},
		"unclean member":      {false, member("./b", 0, digest)},
		"member outside":      {false, member("../b", 0, digest)},
		"member without name": {false, member("", 0, digest)},
		"negative size":       {false, member("b", -1, digest)},
		"short digest":        {false, member("b", 0, digest[1:])},
		"long digest":         {false, member("b", 0, digest+"0")},
		"upper-case digest":   {false, member("b", 0, strings.ToUpper(digest))},
		"no digest":           {false, member("b", 0, "")},
		"json-times":          {false, `{"formatVersion":1,"created":"292277026596-12-04T15:30:07Z"}`},
		"no time":             {false, `{"formatVersion":1,"created":"yesterday"}`},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := archive.ParseMetadata([]byte(c.json))
			if c.accept && (err != nil || m == nil) {
				t.Errorf("got %v, want it accepted", err)
			}
			if !c.accept && (!errors.Is(err, archive.ErrRejected) || m != nil) {
				t.Errorf("got %v, %v, want ErrRejected", m, err)
			}
		})
	}
}

func TestMetadataRoundTrip(t *testing.T) {
	want := &archive.Metadata{
		FormatVersion: archive.FormatVersion,
		Format:        archive.FormatCRIU,
		Tool:          "ckarchive/test",
		Created:       archivetest.Time,
		Container: archive.Container{
			ID: "c1", Name: "one", Engine: "podman", Created: archivetest.Time.Add(-time.Hour), Generation: 2, MemoryBytes: 1 << 40, Processes: 3,
			Runtime: archive.Runtime{Name: "crun", Version: "1.8", Root: "/run/crun", Bundle: "/b"},
		},
		Host:      archive.Host{Architecture: "arm64", Kernel: "6.1", CgroupVersion: "v2", CPU: "c", Distribution: "debian", Version: "12"},
		CRIU:      "4.2.1",
		Options:   map[string]string{"tcp-established": "true"},
		Externals: []archive.External{{Kind: "file", Key: "k", Path: "/p", Flags: 1, Size: 2, FD: 3}, {Kind: "mount", Directory: true}},
		Base:      &archive.Base{Image: "i", ImageID: "sha256:1", Manifest: "sha256:2", DiffIDs: []string{"sha256:3"}, Path: "/", Layers: []string{"/l"}},
		Rootfs:    &archive.Rootfs{Method: "overlay", Files: 1, Deleted: 2, Skipped: []string{"s"}},
		Stats:     &archive.Stats{FreezingTime: 1, FrozenTime: 2, MemdumpTime: 3, MemwriteTime: 4, PagesScanned: 5, PagesWritten: 6, PausedTime: 7},
		Members:   []archive.Member{{Name: "config.dump", Size: 1 << 50, SHA256: digest}},
	}
	b, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := archive.ParseMetadata(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	again, err := got.Marshal()
	if err != nil || string(again) != string(b) {
		t.Errorf("written again: got %s, %v, want %s", again, err, b)
	}
}
