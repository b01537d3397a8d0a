package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// setting is a value for a file of a cgroup. Values of one file are written one by one.
type setting struct{ controller, file, value string }

// defaultDevices are what every container may use: to make any node, and the
// nodes without which few programs run.
const defaultDevices = "c *:* m|b *:* m|c 1:3 rwm|c 1:5 rwm|c 1:7 rwm|c 1:8 rwm|c 1:9 rwm|c 5:0 rwm|c 5:2 rwm|c 136:* rwm"

// limit writes the limits of the spec into the cgroups: CRIU is told to leave them alone.
func (c *cgroups) limit(r *specs.LinuxResources) error {
	for _, h := range c.hierarchies {
		settings := settingsV1(r)
		if h.v2() {
			settings = settingsV2(r)
			c.enable(h, settings)
		}
		for _, s := range settings {
			if !h.v2() && !slices.Contains(h.controllers, s.controller) {
				continue
			}
			file := filepath.Join(h.dir(c.path), s.file)
			err := os.WriteFile(file, []byte(s.value), 0o644)
			if h.v2() && (errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission)) && c.hasV1(s.controller) {
				continue // a hybrid host: the controller is the v1 hierarchy's
			}
			if err != nil {
				return fmt.Errorf("limit resources: write %q to %s: %w", s.value, file, err)
			}
		}
	}
	return nil
}

func (c *cgroups) hasV1(controller string) bool {
	return slices.ContainsFunc(c.hierarchies, func(h hierarchy) bool { return slices.Contains(h.controllers, controller) })
}

// enable turns the controllers that settings need on for the cgroups above. A
// controller that cannot be turned on shows as a missing file.
func (c *cgroups) enable(h hierarchy, settings []setting) {
	dir := h.mount
	for part := range strings.SplitSeq(strings.Trim(c.path, "/"), "/") {
		for _, s := range settings {
			os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+s.controller), 0o644) //nolint:errcheck // see above
		}
		dir = filepath.Join(dir, part)
	}
}

func settingsV1(r *specs.LinuxResources) []setting {
	if r == nil {
		return nil
	}
	var out []setting
	add := func(controller, file, value string) { out = append(out, setting{controller, file, value}) }
	if m := r.Memory; m != nil {
		addInt(add, "memory", "memory.limit_in_bytes", m.Limit)
		addInt(add, "memory", "memory.soft_limit_in_bytes", m.Reservation)
		addInt(add, "memory", "memory.memsw.limit_in_bytes", m.Swap)
	}
	if p := r.CPU; p != nil {
		addInt(add, "cpu", "cpu.shares", p.Shares)
		addInt(add, "cpu", "cpu.cfs_period_us", p.Period)
		addInt(add, "cpu", "cpu.cfs_quota_us", p.Quota)
		if p.Cpus != "" {
			add("cpuset", "cpuset.cpus", p.Cpus)
		}
		if p.Mems != "" {
			add("cpuset", "cpuset.mems", p.Mems)
		}
	}
	if v, ok := pidsLimit(r); ok {
		add("pids", "pids.max", v)
	}
	if len(r.Devices) > 0 {
		add("devices", "devices.deny", "a")
		for rule := range strings.SplitSeq(defaultDevices, "|") {
			add("devices", "devices.allow", rule)
		}
		for _, d := range r.Devices {
			file := "devices.deny"
			if d.Allow {
				file = "devices.allow"
			}
			if rule := deviceRule(d); rule != "a *:* rwm" || d.Allow {
				add("devices", file, rule)
			}
		}
	}
	return out
}

// settingsV2 has no device rules: cgroup v2 has them only as programs of the kernel.
func settingsV2(r *specs.LinuxResources) []setting {
	if r == nil {
		return nil
	}
	var out []setting
	add := func(controller, file, value string) { out = append(out, setting{controller, file, value}) }
	if m := r.Memory; m != nil {
		addInt(add, "memory", "memory.max", m.Limit)
		addInt(add, "memory", "memory.low", m.Reservation)
		if m.Swap != nil && m.Limit != nil && *m.Swap >= *m.Limit {
			add("memory", "memory.swap.max", strconv.FormatInt(*m.Swap-*m.Limit, 10)) // v1 counts memory too
		}
	}
	if p := r.CPU; p != nil {
		if p.Shares != nil && *p.Shares > 0 {
			// The usual mapping of 2..262144 to 1..10000.
			add("cpu", "cpu.weight", strconv.FormatUint(1+(max(*p.Shares, 2)-2)*9999/262142, 10))
		}
		if p.Quota != nil || p.Period != nil {
			quota, period := "max", uint64(100000)
			if p.Quota != nil && *p.Quota > 0 {
				quota = strconv.FormatInt(*p.Quota, 10)
			}
			if p.Period != nil && *p.Period > 0 {
				period = *p.Period
			}
			add("cpu", "cpu.max", fmt.Sprintf("%s %d", quota, period))
		}
		if p.Cpus != "" {
			add("cpuset", "cpuset.cpus", p.Cpus)
		}
		if p.Mems != "" {
			add("cpuset", "cpuset.mems", p.Mems)
		}
	}
	if v, ok := pidsLimit(r); ok {
		add("pids", "pids.max", v)
	}
	return out
}

func addInt[T int64 | uint64](add func(controller, file, value string), controller, file string, v *T) {
	if v == nil || *v == 0 {
		return
	}
	value := fmt.Sprint(*v)
	if *v == ^T(0) && strings.HasSuffix(file, ".max") {
		value = "max"
	}
	add(controller, file, value)
}

func pidsLimit(r *specs.LinuxResources) (string, bool) {
	switch {
	case r.Pids == nil || r.Pids.Limit == nil || *r.Pids.Limit == 0:
		return "", false
	case *r.Pids.Limit < 0:
		return "max", true
	default:
		return strconv.FormatInt(*r.Pids.Limit, 10), true
	}
}

func deviceRule(d specs.LinuxDeviceCgroup) string {
	number := func(n *int64) string {
		if n == nil || *n < 0 {
			return "*"
		}
		return strconv.FormatInt(*n, 10)
	}
	typ, access := d.Type, d.Access
	if typ == "" {
		typ = "a"
	}
	if access == "" {
		access = "rwm"
	}
	return fmt.Sprintf("%s %s:%s %s", typ, number(d.Major), number(d.Minor), access)
}
