package env

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Rootfs fills dir, which is made, with a minimal root file system: busybox
// with all its applets, the workload as /bin/workload, /etc, /tmp, /run and the
// mount points. It returns dir.
func Rootfs(tb testing.TB, dir string) string {
	tb.Helper()
	busybox := Program(tb, "busybox")
	if err := fillRootfs(tb, dir, busybox, Workload(tb)); err != nil {
		tb.Fatalf("make root file system %s: %v", dir, err)
	}
	return dir
}

func fillRootfs(tb testing.TB, dir, busybox, workload string) error {
	for _, name := range []string{
		"bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var/log", "var/tmp",
	} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"tmp", "var/tmp"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"etc/passwd":      "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":       "root:x:0:\nnogroup:x:65534:\n",
		"etc/hosts":       "127.0.0.1 localhost\n",
		"etc/hostname":    "workload\n",
		"etc/resolv.conf": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := copyProgram(filepath.Join(dir, "bin/busybox"), busybox); err != nil {
		return err
	}
	if err := copyProgram(filepath.Join(dir, "bin/workload"), workload); err != nil {
		return err
	}
	applets, err := exec.CommandContext(tb.Context(), busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list busybox applets: %w", err)
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		link := filepath.Join(dir, "bin", applet)
		if err := os.Symlink("busybox", link); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// copyProgram copies, since a hard link would let a test change the original.
func copyProgram(to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // read only
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if closeErr := dst.Close(); err == nil {
		err = closeErr
	}
	return err
}
