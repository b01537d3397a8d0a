package runtime

import (
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
)

// storedContainer is an entry of the containers.json of containers/storage, which Podman
// and CRI-O use.
type storedContainer struct {
	ID       string   `json:"id"`
	Names    []string `json:"names"`
	Image    string   `json:"image"`
	Metadata string   `json:"metadata"` // JSON of the engine's
}

// storedImage is an entry of images.json.
type storedImage struct {
	ID     string   `json:"id"`
	Digest string   `json:"digest"`
	Names  []string `json:"names"`
}

// describePodman finds the container in Podman's storage.
func describePodman(s *survey, c *Container) {
	dirs := storages(c)
	for _, dir := range dirs {
		for _, stored := range s.containersOf(dir) {
			if stored.ID != c.ID {
				continue
			}
			var m struct {
				Image string `json:"image-name"`
			}
			// Without it the image's own names are left.
			_ = json.Unmarshal([]byte(stored.Metadata), &m)
			if len(stored.Names) > 0 {
				c.Name, c.aliases = stored.Names[0], stored.Names
			}
			c.Image = s.storedImage(dirs, stored.Image, m.Image)
			return
		}
	}
}

// idlePodman looks in the storage of the system's Podman.
func idlePodman(s *survey, name string) string {
	for _, stored := range s.containersOf(s.host.path("/var/lib/containers/storage")) {
		if stored.ID == name || slices.Contains(stored.Names, name) {
			return stored.ID
		}
	}
	return ""
}

// storages gives the directories of containers/storage that the container's files lie in: that
// of the bundle, of the root file system and of what is mounted. The last tell the other one of graph root and run root.
func storages(c *Container) []string {
	dirs := []string{}
	add := func(dir string) {
		if dir != "" && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	add(storage(c))
	// STORAGE/overlay/LAYER/merged
	if dir, ok := strings.CutSuffix(c.Rootfs, "/merged"); ok {
		add(filepath.Dir(filepath.Dir(dir)))
	}
	if c.Spec == nil {
		return dirs
	}
	for _, m := range c.Spec.Mounts {
		if at := strings.Index(m.Source, "-containers/"); at > 0 && strings.Contains(m.Source[at:], "/userdata/") {
			add(filepath.Dir(m.Source[:at]))
		}
	}
	return dirs
}

// containersOf reads the containers of a storage, those that go with a reboot too.
func (s *survey) containersOf(dir string) []storedContainer {
	var all []storedContainer
	for _, name := range []string{"containers.json", "volatile-containers.json"} {
		for _, path := range glob(dir, "*-containers/"+name) {
			list, ok := s.containers[path]
			if !ok {
				// What cannot be read names nothing: the ID stays.
				_ = readJSON(path, &list)
				s.containers[path] = list
			}
			all = append(all, list...)
		}
	}
	return all
}

// storedImage describes the image called name with the ID, as the storages know it.
func (s *survey) storedImage(dirs []string, id, name string) *archive.Base {
	id = strings.TrimPrefix(id, "sha256:")
	if id == "" {
		return nil
	}
	base := &archive.Base{Image: name, ImageID: "sha256:" + id}
	if strings.HasPrefix(id, strings.TrimPrefix(name, "sha256:")) {
		base.Image = "" // it was run by its ID
	}
	for _, dir := range dirs {
		for _, path := range glob(dir, "*-images/images.json") {
			list, ok := s.images[path]
			if !ok {
				_ = readJSON(path, &list)
				s.images[path] = list
			}
			i := slices.IndexFunc(list, func(i storedImage) bool { return i.ID == id })
			if i < 0 {
				continue
			}
			base.Manifest = list[i].Digest
			if base.Image == "" && len(list[i].Names) > 0 {
				base.Image = list[i].Names[0]
			}
			base.DiffIDs = storedLayers(path, id)
			return base
		}
	}
	return base
}

// storedLayers are the layers of the image with the ID in the storage of images.json at path.
func storedLayers(path, id string) []string {
	// A name with a colon is kept as base64.
	config := "=" + base64.StdEncoding.EncodeToString([]byte("sha256:"+id))
	return diffIDs(filepath.Join(filepath.Dir(path), id, config))
}

// StoredImage tells whether the system's containers/storage, which Podman and CRI-O use, has the
// image that base names, and gives its ID. Layers decide where base has them, since the same
// layers may have several IDs; else the ID or the manifest's digest. other is an image of that name
// which is not the same; id is empty then, or if there is none.
func StoredImage(h Host, base archive.Base) (id, other string) {
	for _, path := range glob(h.here().path("/var/lib/containers/storage"), "*-images/images.json") {
		var list []storedImage
		_ = readJSON(path, &list) // what cannot be read is not there
		for _, i := range list {
			same := i.ID == strings.TrimPrefix(base.ImageID, "sha256:") || base.Manifest != "" && i.Digest == base.Manifest
			if len(base.DiffIDs) > 0 {
				same = slices.Equal(storedLayers(path, i.ID), base.DiffIDs)
			}
			if same {
				return i.ID, ""
			}
			if slices.Contains(i.Names, base.Image) {
				other = i.ID
			}
		}
	}
	return "", other
}

// diffIDs reads the layers of an image's configuration.
func diffIDs(path string) []string {
	var config struct {
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if readJSON(path, &config) != nil {
		return nil
	}
	return config.Rootfs.DiffIDs
}
