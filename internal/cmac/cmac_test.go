package cmac

import (
	"encoding/hex"
	"testing"
)

// The vectors of RFC 4493 §4 (AES-128) and NIST SP 800-38B D.3 (AES-256).
func TestSum(t *testing.T) {
	msg := "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
	aes128 := "2b7e151628aed2a6abf7158809cf4f3c"
	aes256 := "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
	for _, c := range []struct {
		key  string
		n    int
		want string
	}{
		{aes128, 0, "bb1d6929e95937287fa37d129b756746"},
		{aes128, 16, "070a16b46b4d4144f79bdd9dd04a287c"},
		{aes128, 40, "dfa66747de9ae63030ca32611497c827"},
		{aes128, 64, "51f0bebf7e3b9d92fc49741779363cfe"},
		{aes256, 0, "028962f61b7bf89efc6b551f4667d983"},
		{aes256, 16, "28a7023f452e8f82bd4bf28d8c37c35c"},
		{aes256, 40, "aaf3d8f1de5640c232f5b169b9c911e6"},
		{aes256, 64, "e1992190549f6ed5696a2c056c315410"},
	} {
		key, _ := hex.DecodeString(c.key)
		m, _ := hex.DecodeString(msg)
		mac, err := Sum(key, m[:c.n])
		if got := hex.EncodeToString(mac[:]); err != nil || got != c.want {
			t.Errorf("%d bytes under a %d-bit key: %s, want %s (%v)", c.n, len(key)*8, got, c.want, err)
		}
	}
	if _, err := Sum(make([]byte, 5), nil); err == nil {
		t.Error("a key of 5 bytes is taken")
	}
}
