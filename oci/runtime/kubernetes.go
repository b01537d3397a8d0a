package runtime

import (
	"strings"

	"github.com/ckarchive/ckarchive/archive"
)

// The annotations by which Podman and CRI-O sign a config.json.
const (
	managerKey  = "io.container.manager"
	managerCRIO = "cri-o"
)

// The annotations of containerd's and CRI-O's Kubernetes services, and of nerdctl.
const (
	criContainerName = "io.kubernetes.cri.container-name"
	criImageName     = "io.kubernetes.cri.image-name"
	criPod           = "io.kubernetes.cri.sandbox-name"
	criPodNamespace  = "io.kubernetes.cri.sandbox-namespace"

	crioName      = "io.kubernetes.cri-o.Name"        // k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT
	crioPod       = "io.kubernetes.cri-o.SandboxName" // k8s_POD_NAMESPACE_UID_ATTEMPT
	crioType      = "io.kubernetes.cri-o.ContainerType"
	crioSandbox   = "sandbox"
	crioImageName = "io.kubernetes.cri-o.ImageName"
	crioImageRef  = "io.kubernetes.cri-o.ImageRef"
	crioDigests   = "io.kubernetes.cri-o.ImageRepoDigests"
	crioContainer = "io.kubernetes.container.name"

	nerdctlName = "nerdctl/name"
)

// describeContainerd reads the annotations: containerd's own database is not a file for others.
func describeContainerd(_ *survey, c *Container) {
	c.Namespace = taskNamespace(c)
	c.Name = c.annotation(nerdctlName)
	// The sandbox of a pod has no container-name.
	if name := c.annotation(criContainerName); name != "" {
		c.Name = name
	}
	c.inPod(c.annotation(criPodNamespace), c.annotation(criPod))
	if image := c.annotation(criImageName); image != "" {
		c.Image = &archive.Base{Image: image}
	}
}

// describeCRIO reads CRI-O's annotations, and the storage for the image.
func describeCRIO(s *survey, c *Container) {
	if c.annotation(crioType) != crioSandbox {
		c.Name = c.annotation(crioContainer)
	}
	// Kubernetes' names have no underscore.
	if parts := strings.Split(c.annotation(crioPod), "_"); len(parts) > 2 {
		c.inPod(parts[2], parts[1])
	}
	if full := c.annotation(crioName); full != "" {
		c.aliases = append(c.aliases, full)
	}
	image, id := c.annotation(crioImageName), strings.TrimPrefix(c.annotation(crioImageRef), "sha256:")
	if isHex(id) {
		c.Image = s.storedImage(storages(c), id, image)
	} else if image != "" {
		c.Image = &archive.Base{Image: image}
	}
	if digest := oneDigest(c.annotation(crioDigests)); c.Image != nil && digest != "" {
		c.Image.Manifest = digest
	}
}

// inPod notes the pod, and the longer names of a container in it: containers of
// many pods are called the same.
func (c *Container) inPod(namespace, pod string) {
	if pod == "" {
		return
	}
	c.Pod = namespace + "/" + pod
	if c.Name != "" {
		c.aliases = []string{pod + "/" + c.Name, c.Pod + "/" + c.Name}
	}
}

// isHex tells whether s is the hexadecimal form of a SHA-256.
func isHex(s string) bool {
	const length = 64
	return len(s) == length && strings.Trim(s, "0123456789abcdef") == ""
}

// oneDigest gives the digest of a list of NAME@DIGEST, if all have the same.
func oneDigest(list string) string {
	one := ""
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(` ,;"[]`, r) }) {
		_, digest, ok := strings.Cut(name, "@")
		if !ok || one != "" && digest != one {
			return ""
		}
		one = digest
	}
	return one
}
