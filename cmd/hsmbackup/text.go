package main

import "strconv"

// reference is a stored key's reference as it is shown; that of an adopted key
// may not be known.
func reference(n int) string {
	if n == 0 {
		return "?"
	}
	return strconv.Itoa(n)
}

// takenOf names the token of a snapshot; an adopted one has none.
func takenOf(serial string) string {
	if serial == "" {
		return "adopted files"
	}
	return serial
}
