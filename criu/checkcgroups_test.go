package criu

import (
	"errors"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/cgroup"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// member is a controller and the cgroup that a task is in.
func member(name, path string) *cgroup.CgMemberEntry {
	return &cgroup.CgMemberEntry{Name: &name, Path: &path}
}

// controller is one that begins with these cgroups.
func controller(name string, dirs ...string) *cgroup.CgControllerEntry {
	c := &cgroup.CgControllerEntry{Cnames: []string{name}}
	for _, d := range dirs {
		c.Dirs = append(c.Dirs, &cgroup.CgroupDirEntry{DirName: &d})
	}
	return c
}

func TestCheckCgroups(t *testing.T) {
	cut := func(m *cgroup.CgMemberEntry, at uint32) *cgroup.CgMemberEntry { m.CgnsPrefix = &at; return m }
	property := func(name string) *cgroup.CgControllerEntry {
		c := controller("memory", "a")
		c.Dirs[0].Properties = []*cgroup.CgroupPropEntry{{Name: &name, Value: proto.String("1")}}
		return c
	}
	rootProperty := property("memory.limit_in_bytes")
	rootProperty.Dirs[0].DirName = proto.String("/")
	for name, tt := range map[string]struct {
		in  []*cgroup.CgMemberEntry
		all []*cgroup.CgControllerEntry
		own uint32 // CRIU's set
		bad string // empty: accepted
	}{
		"its own":                      {in: []*cgroup.CgMemberEntry{member("memory", "/a/b")}, all: []*cgroup.CgControllerEntry{controller("memory", "a/b")}},
		"below its own":                {in: []*cgroup.CgMemberEntry{member("memory", "/a/b/c")}, all: []*cgroup.CgControllerEntry{controller("memory", "/a/b")}},
		"a namespace's":                {in: []*cgroup.CgMemberEntry{cut(member("memory", "/a/b"), 2)}, all: []*cgroup.CgControllerEntry{controller("memory", "a")}},
		"none that limits":             {in: []*cgroup.CgMemberEntry{member("misc", "/")}},
		"CRIU's":                       {in: []*cgroup.CgMemberEntry{member("memory", "/")}, own: 2},
		"the host's":                   {in: []*cgroup.CgMemberEntry{member("memory", "/")}, all: []*cgroup.CgControllerEntry{controller("memory", "")}, bad: "not the container's"},
		"another's":                    {in: []*cgroup.CgMemberEntry{member("memory", "/x")}, all: []*cgroup.CgControllerEntry{controller("memory", "a")}, bad: "not the container's"},
		"one of a longer name":         {in: []*cgroup.CgMemberEntry{member("memory", "/ab")}, all: []*cgroup.CgControllerEntry{controller("memory", "a")}, bad: "not the container's"},
		"one of no part of the image":  {in: []*cgroup.CgMemberEntry{member("memory", "/a")}, bad: "not the container's"},
		"cut in the middle":            {in: []*cgroup.CgMemberEntry{cut(member("memory", "/aa/b"), 2)}, all: []*cgroup.CgControllerEntry{controller("memory", "aa")}, bad: "not the container's"},
		"cut behind its end":           {in: []*cgroup.CgMemberEntry{cut(member("memory", "/a"), 1<<31)}, all: []*cgroup.CgControllerEntry{controller("memory", "a")}, bad: "not the container's"},
		"two of one controller":        {all: []*cgroup.CgControllerEntry{controller("memory", "a", "b")}, bad: "two directories"},
		"a program":                    {all: []*cgroup.CgControllerEntry{property("release_agent")}, bad: "release_agent"},
		"devices":                      {all: []*cgroup.CgControllerEntry{property("devices.allow")}, bad: "devices.allow"},
		"a property of the whole host": {all: []*cgroup.CgControllerEntry{rootProperty}, bad: "directory"},
		"an option of mount":           {all: []*cgroup.CgControllerEntry{controller("name=x,release_agent=x")}, bad: "controller"},
		"a hierarchy of its own":       {all: []*cgroup.CgControllerEntry{controller("name=systemd", "a")}},
	} {
		t.Run(name, func(t *testing.T) {
			set := confinedSet(t)
			set["inventory.img"] = encode(t, magicInventory, &inventory.InventoryEntry{
				ImgVersion: proto.Uint32(2), RootIds: kernelObjects(1), RootCgSet: proto.Uint32(max(1, tt.own)),
			})
			set["cgroup.img"] = encode(t, magicCgroup, &cgroup.CgroupEntry{
				Sets: []*cgroup.CgSetEntry{{Id: proto.Uint32(2), Ctls: tt.in}}, Controllers: tt.all,
			})
			task := filtered(0)
			task.ThreadCore.CgSet = proto.Uint32(2)
			set["core-1.img"] = encode(t, magicCore, task)
			_, err := Check(t.Context(), writeSet(t, set), CheckOptions{Spec: confinedSpec()})
			if tt.bad == "" {
				must(t, err)
				return
			}
			if !errors.Is(err, archive.ErrRejected) || !strings.Contains(err.Error(), tt.bad) {
				t.Errorf("error %v, want a rejection that says %q", err, tt.bad)
			}
		})
	}
}
