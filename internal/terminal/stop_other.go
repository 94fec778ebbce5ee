//go:build !unix

package terminal

// ignoreStop does nothing: there is no Ctrl-Z here that stops a program.
func ignoreStop() func() { return func() {} }
