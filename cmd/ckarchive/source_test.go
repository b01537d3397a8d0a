package main

import (
	"encoding/json"
	"testing"
)

// TestByteRate: units are those of curl, and the flags reach a process that is started with them.
func TestByteRate(t *testing.T) {
	for text, want := range map[string]byteRate{"0": 0, "1000": 1000, "500K": 500 << 10, "10M": 10 << 20, "10m": 10 << 20, "1.5G": 3 << 29} {
		var flags remoteFlags
		if err := flags.LimitRate.UnmarshalText([]byte(text)); err != nil || flags.LimitRate != want {
			t.Errorf("%s: got %d, %v, want %d", text, flags.LimitRate, err, want)
		}
		flags.PlainHTTP = true
		raw, err := json.Marshal(flags)
		if err != nil {
			t.Fatal(err)
		}
		var got remoteFlags
		if err := json.Unmarshal(raw, &got); err != nil || got != flags {
			t.Errorf("%s: got %+v, %v, want %+v", raw, got, err, flags)
		}
	}
}
