package criu

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// The ways to lock the network, in the order of CRIU's numbers for them in its images (enum NETWORK_LOCK_METHOD).
const (
	lockIPTables = "iptables"
	lockNFTables = "nftables"
	lockSkip     = "skip"
)

// NetworkLocks are the values of [NetworkLockOptions].Method and [Flags].NetworkLock.
func NetworkLocks() []string { return []string{lockIPTables, lockNFTables, lockSkip} }

// NetworkLockOptions say how the network is to be locked while images are restored.
type NetworkLockOptions struct {
	// Method is one of [NetworkLocks]; empty: that of the dump, or where this host lacks what it needs, what this host has.
	Method string
	// Connections says that TCP connections are restored: they need a lock.
	Connections bool
	// Filters says that the packet filters of the images are restored, as CRIU does where the network namespace is not to be
	// empty. The lock of the dump is among them.
	Filters bool
}

// ErrLocked says that the network would stay locked: the lock is among the packet filters of the images, and what was to lock the
// network cannot remove it.
var ErrLocked = errors.New("the packet filters of the checkpoint hold CRIU's lock of the network, which only the method of the dump removes")

// FitNetworkLock lets images be restored on a host without the packet filter with which their network was locked. CRIU takes
// the method from the images, whatever it is told, and in a network namespace of the container's own locks anew. It gives the method
// if it is another one than that of the dump, and else "". See [ErrLocked].
func (b Binary) FitNetworkLock(imagesDir string, opts NetworkLockOptions) (string, error) {
	inv, err := readInventory(imagesDir)
	if err != nil {
		return "", err
	}
	methods, dumped := NetworkLocks(), ""
	if n := inv.GetNetworkLockMethod(); int(n) < len(methods) { // none is recorded by a CRIU that knew but the first
		dumped = methods[n]
	}
	method := opts.Method
	if method == "" {
		method = usableLock(dumped, findProgram("iptables-restore") != "", b.hasNFTables(), opts.Connections)
	}
	if method == dumped {
		return "", nil
	}
	if opts.Filters {
		if locked, err := holdsLock(imagesDir); err != nil || locked {
			return "", errors.Join(err, fmt.Errorf("%w, %s; this one would be %s", ErrLocked, dumped, method))
		}
	}
	return method, setNetworkLock(imagesDir, inv, slices.Index(methods, method))
}

// usableLock gives the method of the dump, or another one where it cannot be had here.
func usableLock(dumped string, iptables, nftables, connections bool) string {
	switch {
	case dumped == lockIPTables && !iptables && nftables:
		return lockNFTables
	case dumped == lockNFTables && !nftables && iptables:
		return lockIPTables
	case (dumped == lockIPTables || dumped == lockNFTables) && !iptables && !nftables && !connections:
		return lockSkip
	}
	return dumped
}

// hasNFTables tells whether CRIU was built with libnftables: it needs no program then.
func (b Binary) hasNFTables() bool {
	f, err := elf.Open(b.Path)
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // read only
	libraries, err := f.ImportedLibraries()
	return err == nil && slices.ContainsFunc(libraries, func(name string) bool { return strings.HasPrefix(name, "libnftables.so") })
}

func setNetworkLock(imagesDir string, inv *inventory.InventoryEntry, method int) error {
	inv.NetworkLockMethod = proto.Uint32(uint32(method)) //nolint:gosec // one of three
	b, err := proto.Marshal(inv)
	if err == nil {
		// The one image that does not begin with the magic number that all have in common: it tells whether they do.
		err = writeImage(imagesDir, archive.Inventory, appendEntry(binary.LittleEndian.AppendUint32(nil, magicInventory), b))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", archive.Inventory, err)
	}
	return nil
}

// holdsLock tells whether CRIU's chain or table is among the packet filters of the images, which are text.
func holdsLock(imagesDir string) (bool, error) {
	root, err := os.OpenRoot(imagesDir)
	if err != nil {
		return false, err
	}
	defer root.Close() //nolint:errcheck // read only
	entries, err := os.ReadDir(imagesDir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if !isFilterImage(e.Name()) {
			continue
		}
		b, err := root.ReadFile(e.Name())
		if err != nil {
			return false, err
		}
		if bytes.Contains(b, []byte(lockName)) {
			return true, nil
		}
	}
	return false, nil
}
