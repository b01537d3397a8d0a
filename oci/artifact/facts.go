package artifact

import (
	"time"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/foreign"
)

// facts are what a manifest says of a checkpoint.
type facts struct {
	meta *archive.Metadata
	pod  pod
}

// pod is the Kubernetes pod of a container, if there was one.
type pod struct{ name, namespace, uid string }

// The annotations by which a runtime spec names its pod.
const (
	specPodName      = "io.kubernetes.cri.sandbox-name"
	specPodNamespace = "io.kubernetes.cri.sandbox-namespace"
	specPodUID       = "io.kubernetes.cri.sandbox-uid"
)

// gather reads the facts from the metadata members: ckarchive.json where there
// is one, else what other engines write.
func gather(members map[string][]byte) (*facts, error) {
	f := &facts{}
	if raw, own := members[archive.MetadataFile]; own {
		m, err := archive.ParseMetadata(raw)
		if err != nil {
			return nil, err
		}
		f.meta = m
	} else {
		m, err := foreign.Facts(members)
		if err != nil {
			return nil, err
		}
		f.meta = m
	}
	if raw, ok := members[archive.SpecDump]; ok {
		if err := f.fromSpecDump(raw); err != nil {
			return nil, err
		}
	}
	if f.meta.Created.IsZero() {
		f.meta.Created = time.Unix(0, 0)
	}
	return f, nil
}

// fromSpecDump reads what only the spec says.
func (f *facts) fromSpecDump(raw []byte) error {
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := archive.DecodeJSON(archive.SpecDump, raw, &spec); err != nil {
		return err
	}
	f.pod = pod{spec.Annotations[specPodName], spec.Annotations[specPodNamespace], spec.Annotations[specPodUID]}
	return nil
}
