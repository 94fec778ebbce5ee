// Package dkek is everything under the DKEK, the 32-byte key that wraps the
// keys of a SmartCard-HSM and that people call the recovery key: its shares
// and the password-protected files they come in, its check value (KCV), key
// blobs and the containers around them. Bytes in, bytes out: no token, no
// files, no catalog. Fact sheet §6.
//
// Errors are one line for people and wrap one of this package's sentinels.
// None of them holds a secret. Objects that hold secrets print as "[secret]"
// and have a Wipe method; what Go's crypto packages copy (key schedules,
// *rsa.PrivateKey) cannot be reached from here.
package dkek
