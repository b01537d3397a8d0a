package policy

import (
	"fmt"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// seccomp gives the container the default filter of Docker, as it is for its capabilities and this
// kernel. The archive's own filters are in the images, where they are kept: filters add up.
func (b *builder) seccomp() error {
	own := b.old.Linux.Seccomp
	if b.allowed(grantSeccomp + ":unconfined") {
		b.spec.Linux.Seccomp = own
		return nil
	}
	if own != nil && own.ListenerPath != "" {
		b.refuse("seccomp listener", "a socket of the dumping host, which would decide for the container", "--allow seccomp:unconfined")
	}
	withCapabilities := *b.spec
	process := *b.spec.Process
	if process.Capabilities == nil {
		process.Capabilities = &specs.LinuxCapabilities{}
	}
	withCapabilities.Process = &process
	profile, err := seccomp.GetDefaultProfile(&withCapabilities)
	if err != nil {
		return fmt.Errorf("make the default system call filter: %w", err)
	}
	b.spec.Linux.Seccomp, b.result.Filter = profile, true
	return nil
}
