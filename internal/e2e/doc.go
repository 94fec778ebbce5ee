// Package e2e holds tests with real parts: OpenSC's tools and OpenSSH on
// software tokens in a private pcscd, and the whole program beside them. There
// is no code but tests, and they need Linux and cgo. A part that is missing
// makes them fail, with a line that names `make deps`.
package e2e
