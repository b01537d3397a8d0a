package artifact

import (
	"time"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"

	"github.com/ckarchive/ckarchive/archive"
)

// facts are what a manifest says of a checkpoint.
type facts struct {
	meta *archive.Metadata
	pod  pod
}

// pod is the Kubernetes pod of a container, if there was one.
type pod struct{ name, namespace, uid string }

// The labels and annotations by which a runtime spec names its engine and pod.
const (
	specManager      = "io.container.manager"
	specPodName      = "io.kubernetes.cri.sandbox-name"
	specPodNamespace = "io.kubernetes.cri.sandbox-namespace"
	specPodUID       = "io.kubernetes.cri.sandbox-uid"
)

// managers are the engines by the names that they give themselves in a spec.
func managers() map[string]string {
	return map[string]string{"libpod": "podman", "cri-o": "cri-o", "containerd": "containerd"}
}

// gather reads the facts from the metadata members: ckarchive.json where there
// is one, else what other engines write.
func gather(members map[string][]byte) (*facts, error) {
	f := &facts{meta: &archive.Metadata{}}
	raw, own := members[archive.MetadataFile]
	if own {
		m, err := archive.ParseMetadata(raw)
		if err != nil {
			return nil, err
		}
		f.meta = m
	} else if raw, ok := members[archive.ConfigDump]; ok {
		if err := f.fromConfigDump(raw); err != nil {
			return nil, err
		}
	}
	if raw, ok := members[archive.SpecDump]; ok {
		if err := f.fromSpecDump(raw, own); err != nil {
			return nil, err
		}
	}
	if f.meta.Created.IsZero() {
		f.meta.Created = time.Unix(0, 0)
	}
	return f, nil
}

func (f *facts) fromConfigDump(raw []byte) error {
	var c struct {
		metadata.ContainerConfig
		RootfsImageID string `json:"rootfsImageID"` // Podman's and CRI-O's
	}
	if err := archive.DecodeJSON(archive.ConfigDump, raw, &c); err != nil {
		return err
	}
	f.meta.Container = archive.Container{ID: c.ID, Name: c.Name, Created: c.CreatedTime, Runtime: archive.Runtime{Name: c.OCIRuntime}}
	f.meta.Created = c.CheckpointedAt
	if f.meta.Created.IsZero() {
		f.meta.Created = c.CreatedTime
	}
	if c.RootfsImageName != "" {
		f.meta.Base = &archive.Base{Image: c.RootfsImageName, ImageID: c.RootfsImageID}
	}
	return nil
}

// fromSpecDump reads what only the spec says. Our own metadata knows the engine better.
func (f *facts) fromSpecDump(raw []byte, own bool) error {
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := archive.DecodeJSON(archive.SpecDump, raw, &spec); err != nil {
		return err
	}
	if !own {
		f.meta.Container.Engine = managers()[spec.Annotations[specManager]]
	}
	f.pod = pod{spec.Annotations[specPodName], spec.Annotations[specPodNamespace], spec.Annotations[specPodUID]}
	return nil
}
