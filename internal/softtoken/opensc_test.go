package softtoken

import (
	"bytes"
	"fmt"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/tlv"
)

// What OpenSC 0.23 sends, byte by byte, as traced (fact sheet §2.4, §2.6,
// §2.7, §2.13, appendix B).
func TestOpenSCTraces(t *testing.T) {
	c := newCard(t, Options{Firmware: "3.5", Serial: "SOFT0200001"})
	device := c.state.DeviceCertificates

	// A freshly inserted card, §2.13.
	insert := func(label string, enumerated string) {
		t.Helper()
		c.Reset()
		steps := []step{
			{"probe", "00A40400 07 627601FF000000 00", 0x6A82, ""},
			{"probe", "00A40400 06 A00000000101", 0x6A82, ""},
			{"SELECT", selectAID, 0x9000, "*"},
			{"5032", "00A40800 02 5032 00", 0x6A86, ""},
			{"5031", "00A40800 02 5031 00", 0x6A86, ""},
			{"5015/4946", "00A40800 04 50154946 00", 0x6A86, ""},
			{"EF.DIR", "00A40800 02 2F00 00", 0x6A86, ""},
			{"2F02", "00A40000 02 2F02 00", 0x9000, "*"},
			{"2F02", "00B10000 04 54020000 00", 0x9000, fmt.Sprintf("%X", device[:256])},
			{"2F02, on", "00B10000 04 54020100 00", 0x6282, fmt.Sprintf("%X", device[256:])},
			{"2F02, on", fmt.Sprintf("00B10000 04 5402%04X 00", len(device)), 0x6282, ""},
		}
		if label == "" {
			steps = append(steps, step{"2F03", "00A40000 02 2F03 00", 0x6A82, ""})
		} else {
			steps = append(steps, step{"2F03", "00A40000 02 2F03 00", 0x9000, "*"}, step{"2F03", "00B10000 04 54020000 00", 0x6282, label})
		}
		c.run(append(steps, step{"ENUMERATE", "80580000 000000", 0x9000, enumerated}))
	}
	insert("", "2F02 CC00")
	c.run([]step{
		{"PIN", "00200081", 0x6A88, ""}, {"SO-PIN", "00200088", 0x6A88, ""},
		{"biometric", "00200085", 0x6A88, ""}, {"biometric", "00200086", 0x6A88, ""},
	})

	// sc-hsm-tool --initialize, §2.4, --label, §3.3, and the import of a share,
	// §2.6.
	c.run([]step{
		{"INITIALIZE", "80500000 1C 80020001 8106363438323139 82083537363231383830 910103 920101", 0x9000, ""},
		{"VERIFY for the label", "00200081 06 363438323139", 0x9000, ""},
		{"SELECT of 2F03", "00A40000 02 2F03 00", 0x6A82, ""},
		{"create", "00D72F03 06 54020000 5300", 0x9000, ""},
		{"write", "00D70000 14 54020000 530E 300C020100 8003737263 03020520", 0x9000, ""},
		{"DKEK status", "80520000 00", 0x9000, "0101 0000000000000000"},
		{"import", "80520000 20 " + shareA + " 00", 0x9000, "*"},
		{"DKEK status, no login", "80520000 00", 0x9000, "*"},
	})
	insert("300C020100800373726303020520", "2F02 2F03 CC00")
	c.run([]step{
		{"PIN", "00200081", 0x63C3, ""}, {"SO-PIN", "00200088", 0x63CF, ""},
		{"biometric", "00200085", 0x6A88, ""}, {"biometric", "00200086", 0x6A88, ""},
	})

	// pkcs11-tool --keypairgen of RSA-1024, §2.7.
	c.ok(verifyPIN)
	request := c.ok("00460100 00003A 5F290100 4209555443413030303031 7F4915 060A04007F00070202020102 8203010001 02020400 5F2010 45535049434F48534D30313030303031 0000")
	r, err := cvc.ParseRequest(request)
	if err != nil || r.Inner.CHR != "ESPICOHSM0100001" || r.Inner.CAR != "UTCA00001" {
		t.Fatalf("request: %v", err)
	}
	if err := r.VerifyInner(); err != nil {
		t.Error(err)
	}
	k, err := r.PublicKey()
	if err != nil || k.Type() != "RSA-1024" {
		t.Fatalf("key: %v", err)
	}
	prkd := "A0 31 30160C0D6E697374207032353620 6B6579 030206C0 040101 300B 040120 0303073080 020105 A10A 3008 3002 0400 02020100"

	// Export and restore, appendix B. The key is one of ours.
	c.initialise("920102")
	c.ok("80520000 20 %s 00", shareA)
	c.ok("80520000 20 %s 00", shareB)
	sample := samples(t)["P-256"]
	ce := bytes.Repeat([]byte{0x5A}, 0xFF+0xEB)
	copy(ce, tlv.Encode(0x67, ce[:0xFF+0xEB-4]))
	c.ok(selectAID)
	c.run([]step{
		{"C405 is free", "00A40000 02 C405 00", 0x6A82, ""},
		{"CE05 is free", "00A40000 02 CE05 00", 0x6A82, ""},
		{"login", "00200081 06 363438323139", 0x9000, ""},
		{"UNWRAP", fmt.Sprintf("80740593 00016B %X", sample.blob), 0x9000, ""},
		{"C405", "00A40000 02 C405 00", 0x6A82, ""},
		{"create", "00D7C405 06 54020000 5300", 0x9000, ""},
		{"write", "00D70000 39 54020000 5333 " + prkd, 0x9000, ""},
		{"CE05", "00A40000 02 CE05 00", 0x6A82, ""},
		{"create", "00D7CE05 06 54020000 5300", 0x9000, ""},
		{"write", fmt.Sprintf("00D70000 000106 54020000 5381FF %X", ce[:0xFF]), 0x9000, ""},
		{"write on", fmt.Sprintf("00D70000 F2 540200FF 5381EB %X", ce[0xFF:]), 0x9000, ""},
		{"found", "80580000 000000", 0x9000, "2F02 C405 CE05 CC00 CC05"},
		{"C405", "00A40000 02 C405 00", 0x9000, "*"},
		{"description", "00B10000 04 54020000 00", 0x6282, prkd},
		{"CE05", "00A40000 02 CE05 00", 0x9000, fmt.Sprintf("62 0E 8102%04X 820101 8302CE05 8A0105", len(ce))},
		{"request", "00B10000 04 54020000 00", 0x9000, fmt.Sprintf("%X", ce[:256])},
		{"request, on", "00B10000 04 54020100 00", 0x6282, fmt.Sprintf("%X", ce[256:])},
		{"login", "00200081 06 363438323139", 0x9000, ""},
		{"WRAP", "80720592 000000", 0x9000, "*"},
		{"ECDSA-SHA256 of the message", "80680573 000010 30313233343536373839616263646566 0200", 0x9000, "*"},
	})
	if blob := c.ok("80720592 000000"); len(blob) != 363 || !bytes.Equal(blob[:9], unhex(t, kcvAB+"0C")) {
		t.Errorf("blob of %d bytes, %X", len(blob), blob[:9])
	}

	// OpenSC 0.24 and later: through EF 2F10, in pieces, without deleting.
	for _, name := range []string{"RSA-4096", "P-384", "RSA-2048"} {
		blob := samples(t)[name].blob
		c.want(apdu.FileNotFound, "00A40000 02 CC08 00")
		for at := 0; at < len(blob); at += 1000 {
			part := blob[at:min(at+1000, len(blob))]
			c.ok("00D72F10 00%04X 5402%04X 5382%04X %X", 8+len(part), at, len(part), part)
		}
		c.ok("80740893")
		c.ok("00E40200 02 CC08")
	}
}
