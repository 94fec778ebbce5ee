//go:build !unix

package secret

// lockedPages has no equivalent here that is worth its code: the secret stays
// in the Go heap and is wiped.
func lockedPages(int) ([]byte, func([]byte)) { return nil, nil }

// Harden does nothing here: Windows writes no core files by itself.
func Harden() {}
