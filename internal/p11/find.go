package p11

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// triplets are Debian's folders of libraries, by architecture: a machine may
// have those of several.
var triplets = map[string]string{
	"amd64": "x86_64-linux-gnu", "386": "i386-linux-gnu", "arm64": "aarch64-linux-gnu", "arm": "arm-linux-gnueabihf",
	"ppc64le": "powerpc64le-linux-gnu", "s390x": "s390x-linux-gnu", "riscv64": "riscv64-linux-gnu",
}

// places are where OpenSC's packages put the module.
func places(system, arch string, env func(string) string) []string {
	const name = "opensc-pkcs11.so"
	switch system {
	case "windows":
		var list []string
		for _, v := range []string{"ProgramW6432", "ProgramFiles"} {
			if dir := env(v); dir != "" {
				list = append(list, filepath.Join(dir, "OpenSC Project", "OpenSC", "pkcs11", "opensc-pkcs11.dll"))
			}
		}
		if dir := env("SystemRoot"); dir != "" {
			list = append(list, filepath.Join(dir, "System32", "opensc-pkcs11.dll"))
		}
		return list
	case "darwin":
		return []string{"/Library/OpenSC/lib/" + name, "/usr/local/lib/" + name, "/opt/homebrew/lib/" + name, "/opt/local/lib/" + name}
	}
	var list []string
	if t := triplets[arch]; t != "" && system == "linux" {
		list = append(list, "/usr/lib/"+t+"/"+name, "/usr/lib/"+t+"/pkcs11/"+name)
	}
	for _, dir := range []string{"/usr/lib64/pkcs11/", "/usr/lib64/", "/usr/lib/pkcs11/", "/usr/lib/", "/usr/local/lib/pkcs11/", "/usr/local/lib/", "/run/current-system/sw/lib/"} {
		list = append(list, dir+name)
	}
	return list
}

// Find gives the path of OpenSC's module where its packages put it. The error
// wraps ErrNoModule, and ErrNotBuilt in a build that could not load it.
func Find() (string, error) {
	if !built {
		return "", ErrNotBuilt
	}
	return find(places(runtime.GOOS, runtime.GOARCH, os.Getenv))
}

func find(list []string) (string, error) {
	for _, path := range list {
		if Check(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w in the usual places: install OpenSC, or name the module with --module PATH", ErrNoModule)
}

// Check looks at a module before it is loaded, which would fail without a
// reason. The error wraps ErrModule.
func Check(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s: no such file", ErrModule, path)
	case err != nil:
		return fmt.Errorf("%w: %s cannot be read", ErrModule, path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is not a file", ErrModule, path)
	case info.Size() == 0:
		return fmt.Errorf("%w: %s is empty", ErrModule, path)
	}
	return nil
}
