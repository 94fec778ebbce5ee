package store

import "testing"

func TestInMemory(t *testing.T) {
	if !InMemory("/dev/shm/not-there-yet") {
		t.Error("/dev/shm is not taken for memory")
	}
	if InMemory("/proc/version") || InMemory("/no/such/folder/file") {
		t.Error("what is none is taken for memory")
	}
}
