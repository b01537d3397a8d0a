package faults

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/test/env"
)

// tokenServer gives everybody tokens for the repositories that it does not deny, as Docker's registries want them.
type tokenServer struct {
	*httptest.Server
	certificates string // PEM

	key  *rsa.PrivateKey
	cert []byte // DER

	mu    sync.Mutex
	deny  string // a repository
	asked []string
}

func newTokenServer(t *testing.T) *tokenServer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	s := &tokenServer{key: key, cert: cert, certificates: filepath.Join(t.TempDir(), "ca.pem")}
	must(t, os.WriteFile(s.certificates, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
	s.Server = httptest.NewServer(http.HandlerFunc(s.give))
	t.Cleanup(s.Close)
	return s
}

// set denies a repository from now on, and forgets what was asked.
func (s *tokenServer) set(deny string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deny, s.asked = deny, nil
}

// give answers a request for a token.
func (s *tokenServer) give(w http.ResponseWriter, r *http.Request) {
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	granted := []access{}
	for _, scope := range strings.Fields(strings.Join(r.URL.Query()["scope"], " ")) {
		s.asked = append(s.asked, scope)
		parts := strings.Split(scope, ":")
		if len(parts) == 3 && parts[1] != s.deny {
			granted = append(granted, access{parts[0], parts[1], strings.Split(parts[2], ",")})
		}
	}
	now := time.Now()
	token := s.encode(map[string]any{"typ": "JWT", "alg": "RS256", "x5c": []string{base64.StdEncoding.EncodeToString(s.cert)}}) + "." + s.encode(map[string]any{
		"iss": "test", "sub": "", "aud": "test", "jti": fmt.Sprint(now.UnixNano()), "access": granted,
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	})
	sum := sha256.Sum256([]byte(token))
	signature, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"token": token + "." + base64.RawURLEncoding.EncodeToString(signature)}) // a client that is gone misses nothing
}

func (s *tokenServer) encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // none of the values above
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// With tokens, a mount needs the right to read where the blob is. Who does not have it sends the blob.
func TestMountWithTokens(t *testing.T) {
	for version, v3 := range map[string]bool{"second": false, "third": true} {
		t.Run(version, func(t *testing.T) {
			tokens := newTokenServer(t)
			server := env.Registry(t, env.RegistryOptions{V3: v3, TokenRealm: tokens.URL, TokenCertificates: tokens.certificates})
			dir := t.TempDir()
			generations(t, dir, 1, 1<<20)
			for _, step := range []struct {
				to, deny string
				mounted  bool
			}{{"/team/open", "", true}, {"/team/closed", "team/one", false}} {
				tokens.set("")
				must(t, os.RemoveAll(filepath.Join(dir, "root", "ckarchive.seen.json"))) // only this repository is known
				carry(t, dir, "push", "--plain-http", "localhost/c:0", server.Host+"/team/one:0")
				tokens.set(step.deny)
				var said struct {
					Moved struct{ Blobs, Mounted int }
				}
				out, err := carrying(t, dir, "--json", "push", "--plain-http", "localhost/c:0", server.Host+step.to+":0").Output()
				must(t, err)
				must(t, json.Unmarshal(out, &said))
				if (said.Moved.Mounted > 0) != step.mounted || (said.Moved.Blobs > 0) == step.mounted {
					t.Errorf("%s: %+v, want that it is mounted: %v", step.to, said.Moved, step.mounted)
				}
				tokens.mu.Lock()
				if !slices.Contains(tokens.asked, "repository:team/one:pull") || !slices.Contains(tokens.asked, "repository:"+step.to[1:]+":pull,push") {
					t.Errorf("%s: tokens were asked for %q", step.to, tokens.asked)
				}
				tokens.mu.Unlock()
			}
		})
	}
}
