package criu

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

func TestUsableLock(t *testing.T) {
	for _, tt := range []struct {
		dumped                          string
		iptables, nftables, connections bool
		want                            string
	}{
		{lockIPTables, true, false, true, lockIPTables},
		{lockIPTables, true, true, false, lockIPTables},
		{lockIPTables, false, true, true, lockNFTables},
		{lockIPTables, false, false, false, lockSkip},
		{lockIPTables, false, false, true, lockIPTables}, // CRIU tells what is missing
		{lockNFTables, true, false, true, lockIPTables},
		{lockNFTables, false, true, false, lockNFTables},
		{lockNFTables, false, false, false, lockSkip},
		{lockSkip, false, false, true, lockSkip},
		{"", false, false, false, ""}, // of a later CRIU
	} {
		if got := usableLock(tt.dumped, tt.iptables, tt.nftables, tt.connections); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

func TestFitNetworkLock(t *testing.T) {
	entry := &inventory.InventoryEntry{ImgVersion: proto.Uint32(2), DumpUptime: proto.Uint64(7)} // of a CRIU that locked in one way only
	dir := writeSet(t, map[string][]byte{archive.Inventory: encode(t, magicInventory, entry)})
	for number, method := range NetworkLocks() {
		changed := method
		if number == 0 {
			changed = ""
		}
		got, err := Binary{}.FitNetworkLock(dir, NetworkLockOptions{Method: method})
		must(t, err)
		inv, err := readInventory(dir)
		must(t, err)
		if got != changed || int(inv.GetNetworkLockMethod()) != number || inv.GetDumpUptime() != 7 {
			t.Errorf("%s: %q, %v", method, got, inv)
		}
		if raw, err := os.ReadFile(filepath.Join(dir, archive.Inventory)); changed != "" && (err != nil || binary.LittleEndian.Uint32(raw) != magicInventory) {
			t.Errorf("%s: the image begins with %x: %v", method, raw[:4], err)
		}
		again, err := Binary{}.FitNetworkLock(dir, NetworkLockOptions{Method: method})
		if err != nil || again != "" {
			t.Errorf("%s again: %q, %v", method, again, err)
		}
	}
}

// TestFitNetworkLockInFilters: no container comes back with a network that stays locked.
func TestFitNetworkLockInFilters(t *testing.T) {
	for filters, locked := range map[string]bool{"table ip filter {\n\tchain CRIU {\n": true, "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n": false} {
		dir := writeSet(t, map[string][]byte{
			archive.Inventory: encode(t, magicInventory, &inventory.InventoryEntry{ImgVersion: proto.Uint32(2)}), "nftables-9.img": []byte(filters),
		})
		_, err := Binary{}.FitNetworkLock(dir, NetworkLockOptions{Method: lockSkip, Filters: true})
		if errors.Is(err, ErrLocked) != locked {
			t.Errorf("%q: error %v", filters, err)
		}
		inv, err := readInventory(dir)
		must(t, err)
		if changed := inv.GetNetworkLockMethod() != 0; changed == locked {
			t.Errorf("%q: method %d", filters, inv.GetNetworkLockMethod())
		}
		if got, err := (Binary{}).FitNetworkLock(dir, NetworkLockOptions{Method: lockNFTables}); got != lockNFTables || err != nil {
			t.Errorf("%q, which nobody restores: %q, %v", filters, got, err)
		}
	}
}
