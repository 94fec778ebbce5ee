//go:build !linux

package main

// enterPCSC does nothing where there is no private pcscd for tests.
func enterPCSC() {}
