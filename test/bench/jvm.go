package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// jvm is a server in a Java virtual machine, whose entries are a thousand bytes each. It is a script for
// BeanShell: Debian's runtime comes without a compiler.
type jvm struct {
	web
	program string
}

var _ workload = (*jvm)(nil)

func newJVM(ctx context.Context, mib int) (*jvm, error) {
	w, err := newWeb(ctx, mib)
	return &jvm{web: w}, err
}

const jvmServer = `import java.io.*;
import java.net.*;
import java.util.*;
HashMap known = new HashMap();
Random random = new Random(1);
ServerSocket listener = new ServerSocket(Integer.parseInt(bsh.args[0]), 16, InetAddress.getByName("127.0.0.1"));
while (true) {
	Socket socket = listener.accept();
	BufferedReader in = new BufferedReader(new InputStreamReader(socket.getInputStream()));
	String[] asked = in.readLine().split(" ")[1].split("[=&]");
	while (in.readLine().length() > 0) {}
	int count = 0, all = 1;
	if (asked.length == 4) { count = Integer.parseInt(asked[1]); all = Integer.parseInt(asked[3]); }
	for (int i = 0; i < count; i++) {
		byte[] value = new byte[1000];
		random.nextBytes(value);
		known.put("key" + (count == all ? i : random.nextInt(all)), value);
	}
	long sum = 0;
	if (asked[0].equals("/sum")) {
		for (Iterator i = known.values().iterator(); i.hasNext();) sum += Arrays.hashCode((byte[]) i.next());
	}
	OutputStreamWriter out = new OutputStreamWriter(socket.getOutputStream());
	out.write("HTTP/1.0 200 OK\r\n\r\n" + known.size() + " " + sum + "\n");
	out.flush();
	socket.close();
}
`

// beanShell is where Debian's package bsh has its classes.
const beanShell = "/usr/share/java/bsh.jar"

// install copies the whole of Java: what it loads, it finds beside itself.
func (w *jvm) install(ctx context.Context, rootfs string) error {
	program, err := exec.LookPath("java")
	if err == nil {
		w.program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return fmt.Errorf("find java, which test/setup bench installs: %w", err)
	}
	home := filepath.Dir(filepath.Dir(w.program))
	for _, p := range []string{w.program, filepath.Join(home, "lib/server/libjvm.so")} {
		if err := installLibraries(ctx, rootfs, p); err != nil {
			return err
		}
	}
	settings, err := filepath.Glob("/etc/java-*-openjdk") // which links in home lead to
	if err != nil {
		return err
	}
	for _, path := range append(settings, home) {
		to := filepath.Join(rootfs, filepath.Dir(path))
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := run(ctx, "cp", "-a", path, to); err != nil {
			return err
		}
	}
	if err := installFile(ctx, rootfs, beanShell); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(rootfs, "server.bsh"), []byte(jvmServer), 0o644)
}

func (w *jvm) command() []string {
	return []string{
		w.program, "-Xmx512m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-cp", beanShell, "bsh.Interpreter", "/server.bsh", fmt.Sprint(w.port),
	}
}

func (w *jvm) env() []string { return nil }
