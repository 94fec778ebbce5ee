//go:build !cgo

package p11

import "hsmbackup/internal/secret"

// built: modules can be loaded.
const built = false

// Use returns ErrNotBuilt.
func Use(string, string, *secret.Bytes, []Key) ([]Result, error) { return nil, ErrNotBuilt }
