// Package pcsctest gives tests a pcscd of their own with software tokens in
// it, so that real programs (OpenSC, OpenSSH, this one) can be tried on them.
// The machine's own pcscd, readers and network are neither needed nor touched.
//
// A test binary that wants it calls Main, or Enter, first thing in TestMain.
// It then runs itself anew inside namespaces: nothing but loopback for a
// network, an empty /run. There, Start runs a private pcscd with a virtual
// reader of two slots. Any number of such test binaries run side by side.
//
// It works on Linux only; what is missing for it makes tests fail, with a line
// that names `make deps`.
package pcsctest
