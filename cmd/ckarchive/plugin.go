package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
)

// The protocol of checkpointctl (cmd/plugin.go of v1.6.0): every program checkpointctl-NAME in PATH is its command
// NAME. It is started for its description at each call of checkpointctl, and given 500 ms.
const (
	pluginName            = "checkpointctl-ckarchive"
	pluginDescriptionFlag = "--plugin-description"
	pluginDescription     = "Inspect, compare, verify and fetch checkpoints in registries and stores (ckarchive)"
	exitPluginDescription = 42 // says that what is printed is a description
)

// describedPlugin answers checkpointctl, when it is checkpointctl that asks: before anything else is done, and
// without starting any program, since that could be a checkpointctl which asks again.
func describedPlugin(argv []string, stdout io.Writer) (status int, asked bool) {
	if filepath.Base(argv[0]) != pluginName || !slices.Equal(argv[1:], []string{pluginDescriptionFlag}) {
		return 0, false
	}
	if _, err := fmt.Fprintln(stdout, pluginDescription); err != nil {
		return exitEnvironment, true
	}
	return exitPluginDescription, true
}
