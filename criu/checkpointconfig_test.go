package criu

import "testing"

func TestCheckpointConfig(t *testing.T) {
	hs := []hierarchy{
		{controllers: []string{"cpu", "cpuacct"}, mount: "/sys/fs/cgroup/cpu,cpuacct", root: "/"},
		{controllers: []string{"freezer"}, mount: "/sys/fs/cgroup/freezer", root: "/"},
		{mount: "/sys/fs/cgroup/unified", root: "/"},
	}
	const self = "4:memory:/session\n2:freezer:/\n1:cpu,cpuacct:/\n0::/\n"
	for _, tt := range []struct{ name, container, want string }{
		{
			"in the root of version 2", "2:freezer:/c\n1:cpu,cpuacct:/c\n0::/\n",
			"cgroup-dump-controller \"freezer\"\ncgroup-dump-controller \"cpu,cpuacct\"\nfreeze-cgroup \"/sys/fs/cgroup/freezer/c\"\n",
		},
		{
			"in the roots of version 1", "2:freezer:/\n1:cpu,cpuacct:/\n0::/c\n",
			"cgroup-dump-controller \"\"\nfreeze-cgroup \"/sys/fs/cgroup/unified/c\"\n",
		},
		{
			"nowhere in a root", "2:freezer:/c\n1:cpu,cpuacct:/c\n0::/c\n",
			"freeze-cgroup \"/sys/fs/cgroup/freezer/c\"\n",
		},
		{"in all roots", self, ""},
		{
			"with this process", "4:memory:/session\n2:freezer:/c\n1:cpu,cpuacct:/c\n0::/c\n",
			"cgroup-dump-controller \"freezer\"\ncgroup-dump-controller \"cpu,cpuacct\"\ncgroup-dump-controller \"\"\nfreeze-cgroup \"/sys/fs/cgroup/freezer/c\"\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(checkpointConfig(hs, parseCgroups(tt.container), parseCgroups(self))); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
