package main

import (
	"encoding/json"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/criu"
)

// A runtime restores a network namespace of the container's own empty, with lo down, so that
// established connections over it cannot come back. Runtimes run createRuntime hooks when the
// namespaces are there and the sockets are not yet: ours sets lo up.

// loopbackName is argv[0] of the hook.
const loopbackName = "ckarchive-loopback"

// ownNetwork tells whether the spec makes a network namespace.
func ownNetwork(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace && n.Path == ""
	})
}

// hasNetwork tells whether the container has another network namespace than the host's.
func hasNetwork(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
}

// withLoopback gives the spec with the hook.
func withLoopback(spec *specs.Spec) (*specs.Spec, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	hooked := *spec
	hooks := specs.Hooks{}
	if spec.Hooks != nil {
		hooks = *spec.Hooks
	}
	hooks.CreateRuntime = append(slices.Clone(hooks.CreateRuntime), specs.Hook{Path: self, Args: []string{loopbackName}})
	hooked.Hooks = &hooks
	return &hooked, nil
}

// maxStateBytes bounds the state that a runtime gives a hook.
const maxStateBytes = 1 << 20

// runLoopback is the hook: it reads the container's state from standard input.
func runLoopback() int {
	b, err := io.ReadAll(io.LimitReader(os.Stdin, maxStateBytes))
	if err != nil {
		return exitEnvironment
	}
	var state specs.State
	if err := json.Unmarshal(b, &state); err != nil || state.Pid <= 0 {
		return exitRejected
	}
	if err := criu.RaiseLoopback(state.Pid); err != nil {
		_, _ = os.Stderr.WriteString(oneLine(err.Error()) + "\n")
		return exitEnvironment
	}
	return 0
}
