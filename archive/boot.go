package archive

import (
	"os"
	"strings"
)

// BootID tells one run of the kernel from another: what is left of an earlier one has no processes, locks or
// unsynced data any more. It is empty where the kernel does not tell.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
