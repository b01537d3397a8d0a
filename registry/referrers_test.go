package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestReferrers(t *testing.T) {
	const kind = "application/vnd.test.signature"
	subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("subject"), Size: 7}
	one := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("one"), Size: 3, ArtifactType: kind}
	other := one
	other.ArtifactType = "application/vnd.test.other"
	wrong := one
	wrong.Digest = "sha256:../../x"
	list, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{other, wrong, one}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		status      int
		contentType string
		body        string
		want        int
		err         error
	}{
		"a list":                {200, ocispec.MediaTypeImageIndex, string(list), 1, nil},
		"an empty list":         {200, ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[]}`, 0, nil},
		"a registry without":    {404, "text/plain", "404 page not found", 0, nil},
		"a web page":            {200, "text/html", "<html>", 0, nil},
		"no JSON":               {200, ocispec.MediaTypeImageIndex, "{", 0, ErrContent},
		"longer than all lists": {200, ocispec.MediaTypeImageIndex, strings.Repeat(" ", MaxManifestBytes+1), 0, ErrContent},
		"not allowed":           {403, "application/json", "{}", 0, ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/referrers/") {
					return false
				}
				if want := "/v2/team/web/referrers/" + subject.Digest.String(); r.URL.Path != want || r.URL.Query().Get("artifactType") != kind {
					t.Errorf("asked for %s", r.URL)
				}
				w.Header().Set("Content-Type", tt.contentType)
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
				return true
			}
			repo, err := NewClient(ClientOptions{PlainHTTP: true}).Repository(f.host() + "/team/web:1")
			if err != nil {
				t.Fatal(err)
			}
			got, err := repo.Referrers(t.Context(), subject, kind)
			if !errors.Is(err, tt.err) || len(got) != tt.want {
				t.Errorf("got %v, %v, want %d, %v", got, err, tt.want, tt.err)
			}
			if tt.want == 1 && got[0].Digest != one.Digest {
				t.Errorf("got %s", got[0].Digest)
			}
		})
	}
}
