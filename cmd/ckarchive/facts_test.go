package main

import (
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// What an engine knows of the image is kept when --base names that image, and not when it names another one.
func TestNamedBase(t *testing.T) {
	known := archive.Base{Image: "localhost/web:1", ImageID: "sha256:aa"}
	for named, id := range map[string]string{"": "sha256:aa", "localhost/web:1": "sha256:aa", "web:1": "sha256:aa", "localhost/web:2": ""} {
		x := &export{cmd: &exportCmd{Base: named}, ctr: &runtime.Container{Image: &known}}
		if err := x.findBase(); err != nil {
			t.Fatal(err)
		}
		x.addImage()
		if x.base.ImageID != id {
			t.Errorf("--base %q: %+v, want the ID %q", named, x.base, id)
		}
	}
}
