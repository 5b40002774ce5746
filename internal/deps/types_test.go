// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package deps

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// secretTypes are types that hold a key, or act for one. A package's path alone stands for all its types.
var secretTypes = []string{
	module + "internal/secret", module + "internal/custody", module + "internal/jose", module + "internal/aeskw",
	module + "providers", module + "providers/internal/pb", module + "providers/software",
	"crypto.PrivateKey", "crypto.Signer", "crypto.Decrypter",
	"crypto/rsa.PrivateKey", "crypto/ecdsa.PrivateKey", "crypto/ecdh.PrivateKey", "crypto/ed25519.PrivateKey", "crypto/dsa.PrivateKey",
	"crypto/mlkem.DecapsulationKey768", "crypto/mlkem.DecapsulationKey1024",
	"crypto/cipher.Block", "crypto/cipher.BlockMode", "crypto/cipher.Stream", "crypto/cipher.AEAD",
	"crypto/tls.Config", "crypto/tls.Certificate",
	"hash.Hash", // which an HMAC is
}

// harmless is a number, though its method makes hashes, which have no key.
const harmless = "crypto.Hash"

// publicPackages are those whose API the protocol process uses.
var publicPackages = []string{module + "msl", module + "msl/websocket", module + "agent"}

// TestTypes walks everything that can be reached from an exported name of msl or agent: fields, exported
// or not, elements, parameters, results, methods. No type on the way may hold a key.
func TestTypes(t *testing.T) {
	load := exports(t)
	for _, path := range publicPackages {
		pkg, err := load.Import(path)
		if err != nil {
			t.Fatal(err)
		}
		w := walked(pkg)
		for _, f := range w.found {
			t.Errorf("%s: the protocol process never holds a key", f)
		}
		if len(w.seen) < 100 {
			t.Errorf("%s: the walk came to %d types only", path, len(w.seen))
		}
	}
}

// TestTypesNoticed: the walk finds a secret wherever one can be.
func TestTypesNoticed(t *testing.T) {
	load := exports(t)
	for _, decl := range []string{
		"type T struct { A *rsa.PrivateKey }",
		"type T struct { a rsa.PrivateKey }",
		"type T struct { A []map[string]chan *[3]cipher.Block }",
		"type T struct { A map[*secret.Bytes]int }",
		"type T struct { u u }; type u struct { *v }; type v struct { k ed25519.PrivateKey }",
		"type T struct { A struct { B func() *ecdh.PrivateKey } }",
		"type T int; func (T) Key() *secret.Bytes { return nil }",
		"type T int; func (*T) key(crypto.PrivateKey) {}",
		"type T interface { Key() (int, error, ecdsa.PrivateKey) }",
		"type T interface { u }; type u interface { Key() crypto.Signer }",
		"type T[K any] struct { A K }; var V T[hash.Hash]",
		"type T = secret.Bytes",
		"func F() *secret.Bytes { return nil }",
		"func F(...*rsa.PrivateKey) {}",
		"var V cipher.AEAD",
	} {
		src := "package p\nimport (\"crypto\"; \"crypto/cipher\"; \"crypto/ecdh\"; \"crypto/ecdsa\"; \"crypto/ed25519\"; \"crypto/rsa\"; \"hash\"; \"" + module + "internal/secret\")\n" +
			"type (_ crypto.Hash; _ cipher.Block; _ ecdh.Curve; _ ecdsa.PublicKey; _ ed25519.PublicKey; _ rsa.PublicKey; _ hash.Hash; _ = secret.Bytes)\n" + decl
		if w := walked(checked(t, load, src)); len(w.found) != 1 {
			t.Errorf("%s: found %q", decl, w.found)
		}
	}
	if w := walked(checked(t, load, "package p\nimport \"crypto/rsa\"\ntype T struct { A *rsa.PublicKey; b map[string][]T }\nvar unexported rsa.PrivateKey")); len(w.found) != 0 {
		t.Errorf("found %q where there is nothing", w.found)
	}
}

// exports returns an importer of the packages that this module needs, as they are compiled.
func exports(t *testing.T) types.Importer {
	t.Helper()
	openFolders(t)
	files := make(map[string]string)
	cmd := exec.Command("go", "list", "-deps", "-export", "-json=ImportPath,Export", module+"...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(out); ; {
		var p struct{ ImportPath, Export string }
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		files[p.ImportPath] = p.Export
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go list: %v", err)
	}
	return importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		if files[path] == "" {
			return nil, fmt.Errorf("package %s is not a dependency of this module", path)
		}
		return os.Open(files[path])
	})
}

// checked type-checks a package of one file.
func checked(t *testing.T, load types.Importer, src string) *types.Package {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := (&types.Config{Importer: load}).Check("p", fset, []*ast.File{file}, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, src)
	}
	return pkg
}

// A walk visits types, each once.
type walk struct {
	seen  map[types.Type]bool
	found []string // ways to secrets
}

// walked walks all that is exported from a package.
func walked(pkg *types.Package) *walk {
	w := &walk{seen: make(map[types.Type]bool)}
	for _, name := range pkg.Scope().Names() {
		if o := pkg.Scope().Lookup(name); o.Exported() {
			w.visit(pkg.Path()+"."+name, o.Type())
		}
	}
	return w
}

// visit follows a type. way says how it was reached.
func (w *walk) visit(way string, t types.Type) {
	if t == nil || w.seen[t] {
		return
	}
	w.seen[t] = true
	switch t := t.(type) {
	case *types.Alias:
		w.visit(way, types.Unalias(t))
	case *types.Named:
		w.named(way, t)
	case *types.Pointer:
		w.visit(way, t.Elem())
	case *types.Slice:
		w.visit(way+"[]", t.Elem())
	case *types.Array:
		w.visit(way+"[]", t.Elem())
	case *types.Chan:
		w.visit(way+"<-", t.Elem())
	case *types.Map:
		w.visit(way+"[key]", t.Key())
		w.visit(way+"[]", t.Elem())
	case *types.Struct:
		for f := range t.Fields() {
			w.visit(way+"."+f.Name(), f.Type())
		}
	case *types.Signature:
		w.tuple(way+"(parameter)", t.Params())
		w.tuple(way+"()", t.Results())
	case *types.Interface:
		for m := range t.Methods() {
			w.visit(way+"."+m.Name(), m.Type())
		}
	}
}

func (w *walk) tuple(way string, t *types.Tuple) {
	for v := range t.Variables() {
		w.visit(way, v.Type())
	}
}

func (w *walk) named(way string, t *types.Named) {
	if o := t.Obj(); o.Pkg() != nil {
		name := o.Pkg().Path() + "." + o.Name()
		if slices.Contains(secretTypes, name) || slices.Contains(secretTypes, o.Pkg().Path()) {
			w.found = append(w.found, fmt.Sprintf("%s leads to %s", way, name))
			return
		}
		if name == harmless {
			return
		}
		if strings.HasPrefix(name, module) {
			way = name
		}
	}
	w.visit(way, t.Underlying())
	for a := range t.TypeArgs().Types() {
		w.visit(way+"[type]", a)
	}
	for m := range t.Methods() {
		w.visit(way+"."+m.Name(), m.Type())
	}
}
