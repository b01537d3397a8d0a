package runtime

import (
	"fmt"
	"path/filepath"
	"strings"
)

// AfterStop says how whoever manages the container learns that it has been stopped, with
// the command that removes it there. Empty is nothing to do.
func (c *Container) AfterStop() string {
	for _, e := range engines() {
		if e.name == c.Engine {
			return e.after(c)
		}
	}
	if c.Runtime.Name == Direct {
		return ""
	}
	name := c.Runtime.Path
	if filepath.Base(name) == c.Runtime.Name || name == "" {
		name = c.Runtime.Name
	}
	if c.Runtime.kind.sandbox {
		return fmt.Sprintf("%s goes on to show it as paused; remove it with: %s", c.Runtime.Name,
			c.command(name, "--root", c.Runtime.Root, "delete", "--force", c.ID))
	}
	return fmt.Sprintf("%s shows it as stopped; remove it with: %s", c.Runtime.Name,
		c.command(name, "--root", c.Runtime.Root, "delete", c.ID))
}

// command writes a command for the shell, to be run by whose container it is.
func (c *Container) command(args ...string) string {
	if c.User != 0 {
		runtimeDir := fmt.Sprintf("XDG_RUNTIME_DIR=%s/%d", usersDir, c.User)
		args = append([]string{"sudo", "-u", fmt.Sprintf("#%d", c.User), runtimeDir}, args...)
	}
	quoted := []string{}
	for _, a := range args {
		quoted = append(quoted, quote(a))
	}
	return strings.Join(quoted, " ")
}

// quote makes a word of the shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%_+=:,./-", r)
	}
	if s != "" && strings.TrimFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// podmanStorages are where Podman keeps containers without being told.
func podmanStorages() []string {
	return []string{"/var/lib/containers/storage", "/.local/share/containers/storage"}
}

func afterPodman(c *Container) string {
	args := []string{"podman"}
	dir, known := storage(c), false
	for _, usual := range podmanStorages() {
		known = known || strings.HasSuffix(dir, usual)
	}
	if !known {
		args = append(args, "--root", dir)
	}
	list := c.command(append(args[:len(args):len(args)], "ps", "-a")...)
	return fmt.Sprintf("podman notices by itself, and starts it anew if its restart policy says so; %s shows it as Exited (137); remove it with: %s",
		list, c.command(append(args, "rm", c.ID)...))
}

func afterDocker(c *Container) string {
	return fmt.Sprintf("dockerd notices by itself, and starts it anew if its restart policy says so (%s prevents that); remove it with: %s",
		c.command("docker", "update", "--restart=no", c.ID), c.command("docker", "rm", c.ID))
}

// kubernetesNamespace is the namespace of containerd in which its Kubernetes service keeps containers.
const kubernetesNamespace = "k8s.io"

func afterContainerd(c *Container) string {
	if c.Namespace == kubernetesNamespace {
		return afterKubelet(c)
	}
	return fmt.Sprintf("containerd shows its task as STOPPED; remove it with: %s && %s",
		c.command("ctr", "-n", c.Namespace, "tasks", "delete", c.ID),
		c.command("ctr", "-n", c.Namespace, "containers", "delete", c.ID))
}

func afterCRIO(c *Container) string { return afterKubelet(c) }

func afterKubelet(c *Container) string {
	remove := c.command("crictl", "rm", c.ID)
	namespace, pod, ok := strings.Cut(c.Pod, "/")
	if !ok {
		return "the kubelet may start another one in its place; remove this one with: " + remove
	}
	return fmt.Sprintf("the kubelet starts another one in its place unless the pod's restartPolicy is Never or the pod is deleted with: %s; remove only this one with: %s",
		c.command("kubectl", "-n", namespace, "delete", "pod", pod), remove)
}
