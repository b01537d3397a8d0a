package foreign

import (
	"bytes"
	"encoding/json"
	"maps"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// leavePod takes a container out of the pod that Podman had it in, or away from the container whose network it used: Podman restores
// such a config.dump only into a pod of the same kind, and no pod travels. The names are those of libpod's ContainerConfig. What
// is missing then is told for a container that is alone.
func leavePod(config map[string]json.RawMessage) {
	if isEmpty(config["pod"]) && isEmpty(config["Dependencies"]) {
		return
	}
	network := !isEmpty(config["netNsCtr"])
	if !isEmpty(config["ipcNsCtr"]) {
		delete(config, "ShmDir") // the other one's
	}
	for _, key := range []string{"pod", "Dependencies", "ipcNsCtr", "mountNsCtr", "netNsCtr", "pidNsCtr", "userNsCtr", "utsNsCtr", "cgroupNsCtr"} {
		delete(config, key)
	}
	if network {
		maps.DeleteFunc(config, func(key string, _ json.RawMessage) bool {
			return key == "createNetNS" || key == "networkMode" || key == "newNetworks" || key == "orderedNetworks"
		})
	}
}

// inImages tells of the namespaces that are in the images, also those of a pod.
func inImages(kind specs.LinuxNamespaceType) bool {
	return kind == specs.IPCNamespace || kind == specs.UTSNamespace || kind == specs.CgroupNamespace
}

// withOwnNamespaces gives a runtime configuration in which the namespaces that are in the images are the container's own, where they
// were those of its pod: the path of one leads nowhere where the pod is not.
func withOwnNamespaces(raw []byte) ([]byte, error) {
	spec, err := parseDocument(archive.SpecDump, raw)
	if err != nil {
		return nil, err
	}
	linux, err := spec.object("linux")
	if err != nil {
		return nil, err
	}
	changed := false
	err = linux.each("namespaces", func(d document) error {
		var ns specs.LinuxNamespace
		err := d.decode(&ns)
		if inImages(ns.Type) && ns.Path != "" {
			delete(d, "path")
			changed = true
		}
		return err
	})
	if err != nil || !changed {
		return raw, err
	}
	if err := spec.set("linux", linux); err != nil {
		return nil, err
	}
	return json.MarshalIndent(spec, "", "  ")
}

// isEmpty tells whether a value is missing or says nothing.
func isEmpty(raw json.RawMessage) bool {
	for _, empty := range []string{"", `""`, `null`, `[]`, `"0001-01-01T00:00:00Z"`} {
		if string(bytes.TrimSpace(raw)) == empty {
			return true
		}
	}
	return false
}
