package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"hsmbackup/dkek"
)

// derivations is a folder in which the tests and all programs that they run keep
// what opens the share files: most are opened many times. The first time takes
// what it takes; the tests of dkek always do it in full.
type derivations string

// derivationsEnv tells the programs that tests run where the folder is; none is
// no folder.
const derivationsEnv = "HSMBACKUP_TEST_DERIVATIONS"

func (d derivations) remember() {
	if d != "" {
		dkek.TestOnlyRemember(d)
	}
}

func (d derivations) file(passSalt []byte) string {
	return filepath.Join(string(d), fmt.Sprintf("%x", sha256.Sum256(passSalt)))
}

// Find gives what a program kept, nil for none.
func (d derivations) Find(passSalt []byte) []byte {
	b, _ := os.ReadFile(d.file(passSalt))
	return b
}

// Keep keeps a result, and with which salt a password was used.
func (d derivations) Keep(passSalt, result []byte) {
	const saltSize = 8
	password := passSalt[:len(passSalt)-saltSize]
	d.write(d.file(passSalt), result)
	if len(result) == 48 { // it was the right one
		d.write(d.file(append([]byte("salt of "), password...)), passSalt[len(password):])
	}
}

// Salt gives one with which the password was used.
func (d derivations) Salt(password []byte) []byte {
	return d.Find(append([]byte("salt of "), password...))
}

// write writes a file whole or not at all.
func (d derivations) write(name string, content []byte) {
	f, err := os.CreateTemp(string(d), "new-*")
	if err != nil {
		panic(err)
	}
	if _, err := f.Write(content); err != nil {
		panic(err)
	}
	if err := f.Close(); err != nil {
		panic(err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		panic(err)
	}
}

// rememberingM runs the tests with such a folder.
type rememberingM struct{ testscript.TestingM }

func (m rememberingM) Run() int {
	dir, err := os.MkdirTemp("", "hsmbackup-derivations-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	os.Setenv(derivationsEnv, dir)
	derivations(dir).remember()
	return m.TestingM.Run()
}
