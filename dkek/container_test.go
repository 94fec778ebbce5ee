package dkek

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hsmbackup/internal/tlv"
)

func parts(t testing.TB, file []byte) [][]byte {
	t.Helper()
	outer, _, err := tlv.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	list, err := outer.Children()
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for _, e := range list {
		all = append(all, e.Raw)
	}
	return all
}

func TestParseContainerShapes(t *testing.T) {
	rsa := parts(t, vector(t, "a-rsa2048.bin"))
	x509 := parts(t, vector(t, "a-withcert.bin"))
	ec := parts(t, vector(t, "a-p256.bin"))
	aes := parts(t, vector(t, "a-aes128.bin"))
	cv := parts(t, ec[2])[0] // the 7F21 within the request
	for _, c := range []struct {
		name               string
		parts              [][]byte
		description, other []byte
		misplaced          bool
	}{
		{"RSA", rsa, rsa[1], rsa[2], false},
		{"X.509", x509, x509[1], x509[2], false},
		{"EC", ec, ec[1], ec[2], false},
		{"AES", aes, aes[1], nil, false},
		{"blob only", ec[:1], nil, nil, false},
		{"no certificate", ec[:2], ec[1], nil, false},
		{"request in the description's place", [][]byte{rsa[0], rsa[2]}, nil, rsa[2], true},
		{"X.509 in the description's place", [][]byte{x509[0], x509[2]}, nil, x509[2], true},
		{"other order", [][]byte{x509[0], x509[2], x509[1]}, x509[1], x509[2], false},
		{"CVC", [][]byte{ec[0], ec[1], cv}, ec[1], cv, false},
	} {
		file := tlv.Encode(0x30, c.parts...)
		got, err := ParseContainer(file)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		blob, _, _ := tlv.Parse(c.parts[0])
		if !bytes.Equal(got.Blob, blob.Value) || !bytes.Equal(got.Description, c.description) ||
			!bytes.Equal(got.Certificate, c.other) || got.Misplaced != c.misplaced || got.Trailing != nil {
			t.Errorf("%s: description %d, certificate %d bytes, misplaced %v", c.name, len(got.Description), len(got.Certificate), got.Misplaced)
		}
		if c.name != "other order" && !bytes.Equal(got.Encode(), file) {
			t.Errorf("%s: not written as read", c.name)
		}
		again, err := ParseContainer(append(bytes.Clone(file), 1, 2, 3))
		if err != nil || !bytes.Equal(again.Trailing, []byte{1, 2, 3}) || !bytes.Equal(again.Blob, got.Blob) {
			t.Errorf("%s with a tail: %v", c.name, err)
		}
		bare, err := ParseContainer(blob.Value)
		if err != nil || !bytes.Equal(bare.Blob, blob.Value) || bare.Description != nil || bare.Certificate != nil {
			t.Errorf("%s as a bare blob: %v", c.name, err)
		}
	}
}

// A bare blob whose KCV looks like the head of a container.
func TestParseContainerBlobLikeSequence(t *testing.T) {
	blob := bytes.Clone(parts(t, vector(t, "a-p256.bin"))[0][4:])
	copy(blob, []byte{0x30, 0x04, 0x04, 0x02, 0x00, 0x00, 0x01, 0x02})
	c, err := ParseContainer(blob)
	if err != nil || !bytes.Equal(c.Blob, blob) {
		t.Errorf("%v", err)
	}
}

func TestParseContainerReject(t *testing.T) {
	ec := parts(t, vector(t, "a-p256.bin"))
	x509 := parts(t, vector(t, "a-withcert.bin"))
	data := tlv.Encode(0x30, tlv.Encode(0x30, tlv.Encode(0x0C, []byte("x"))), tlv.Encode(0x30, tlv.Encode(0x0C, []byte("app"))), tlv.Encode(0xA1, []byte{0x30, 0}))
	for _, c := range []struct {
		name string
		file []byte
		says string
	}{
		{"nothing", nil, "neither"},
		{"share file", vector(t, "a.pbe"), "share file"},
		{"text", []byte("-----BEGIN CERTIFICATE-----"), "neither"},
		{"certificate", vector(t, "withcert.crt.der"), "key blob"},
		{"description", ec[1], "neither"},
		{"request", ec[2], "neither"},
		{"no blob", tlv.Encode(0x30, ec[1], ec[2]), "key blob"},
		{"empty", tlv.Encode(0x30), "key blob"},
		{"empty blob", tlv.Encode(0x30, tlv.Encode(0x04)), "key blob"},
		{"blob not first", tlv.Encode(0x30, ec[1], ec[0], ec[2]), "key blob"},
		{"two blobs", tlv.Encode(0x30, ec[0], ec[0]), "part 2"},
		{"two descriptions", tlv.Encode(0x30, ec[0], ec[1], ec[1]), "second key description"},
		{"two requests", tlv.Encode(0x30, ec[0], ec[1], ec[2], ec[2]), "second certificate"},
		{"request and certificate", tlv.Encode(0x30, ec[0], ec[1], ec[2], x509[2]), "second certificate"},
		{"stranger", tlv.Encode(0x30, ec[0], tlv.Encode(0x53, []byte{1})), "tag 53"},
		{"data description", tlv.Encode(0x30, ec[0], data), "neither"},
		{"half a part", tlv.Encode(0x30, ec[0], ec[1][:20]), "add up"},
		{"cut", vector(t, "a-p256.bin")[:500], "cut off"},
	} {
		got, err := ParseContainer(c.file)
		if got != nil || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// checkMutant: whatever parses has parts of the kind they are taken for and
// encodes to what it was; the original's own parts keep their roles.
func checkMutant(t rapid.TB, file []byte, blob, description, certificate []byte) {
	t.Helper()
	c, err := ParseContainer(file)
	if err != nil {
		if !errors.Is(err, ErrFormat) {
			t.Fatalf("%v", err)
		}
		return
	}
	if _, err := ParseBlob(c.Blob); err != nil {
		t.Fatalf("the blob is none: %v", err)
	}
	if c.Description != nil {
		e, _, err := tlv.Parse(c.Description)
		if err != nil {
			t.Fatal(err)
		}
		if what, err := recognise(e); err != nil || what != partDescription {
			t.Fatalf("taken for a description: part %d, %v", what, err)
		}
	}
	if c.Certificate != nil {
		e, _, err := tlv.Parse(c.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if what, err := recognise(e); err != nil || what == partDescription {
			t.Fatalf("taken for a certificate: part %d, %v", what, err)
		}
	}
	if description != nil && bytes.Equal(c.Certificate, description) || certificate != nil && bytes.Equal(c.Description, certificate) {
		t.Fatal("description and certificate changed places")
	}
	if blob != nil && (bytes.Equal(c.Certificate, blob) || bytes.Equal(c.Description, blob)) {
		t.Fatal("the blob is taken for something else")
	}
	if c.Misplaced != (c.Description == nil && c.Certificate != nil) {
		t.Fatal("misplaced")
	}
	again, err := ParseContainer(c.Encode())
	if err != nil || !bytes.Equal(again.Blob, c.Blob) || !bytes.Equal(again.Description, c.Description) || !bytes.Equal(again.Certificate, c.Certificate) {
		t.Fatalf("does not survive encoding: %v", err)
	}
}

func TestContainerMutants(t *testing.T) {
	var files [][][]byte
	for _, g := range goldenKeys {
		files = append(files, parts(t, vector(t, g.file)))
	}
	rapid.Check(t, func(t *rapid.T) {
		p := bytesOf(rapid.SampledFrom(files).Draw(t, "file"))
		original := bytesOf(p)
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			if len(p) == 0 {
				break
			}
			i := rapid.IntRange(0, len(p)-1).Draw(t, "part")
			switch rapid.SampledFrom([]string{"drop", "swap", "cut", "extend", "retag", "double", "foreign", "flip"}).Draw(t, "change") {
			case "drop":
				p = append(p[:i:i], p[i+1:]...)
			case "swap":
				j := rapid.IntRange(0, len(p)-1).Draw(t, "with")
				p[i], p[j] = p[j], p[i]
			case "cut":
				p[i] = p[i][:rapid.IntRange(0, len(p[i])).Draw(t, "to")]
			case "extend":
				p[i] = append(bytes.Clone(p[i]), rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "tail")...)
			case "retag":
				if len(p[i]) > 0 {
					p[i] = bytes.Clone(p[i])
					p[i][0] = rapid.SampledFrom([]byte{0x04, 0x30, 0xA0, 0xA8, 0x67, 0x7F, 0x53}).Draw(t, "tag")
				}
			case "double":
				p = append(p, p[i])
			case "foreign":
				other := rapid.SampledFrom(files).Draw(t, "other")
				p[i] = other[rapid.IntRange(0, len(other)-1).Draw(t, "piece")]
			case "flip":
				if len(p[i]) > 0 {
					p[i] = bytes.Clone(p[i])
					p[i][rapid.IntRange(0, len(p[i])-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
				}
			}
		}
		var certificate []byte
		if len(original) > 2 {
			certificate = original[2]
		}
		blob, _, err := tlv.Parse(original[0])
		if err != nil {
			t.Fatal(err)
		}
		checkMutant(t, tlv.Encode(0x30, p...), blob.Value, original[1], certificate)
	})
}

func bytesOf(p [][]byte) [][]byte { return append([][]byte(nil), p...) }

// Cut anywhere, a container is refused or, at the boundaries of its parts, is
// still cut: the outer length gives it away.
func TestContainerCut(t *testing.T) {
	for _, g := range goldenKeys {
		file := vector(t, g.file)
		for n := range file {
			if _, err := ParseContainer(file[:n]); !errors.Is(err, ErrFormat) {
				t.Fatalf("%s cut to %d bytes: %v", g.file, n, err)
			}
		}
	}
}

func TestContainerEncodeCutsTails(t *testing.T) {
	p := parts(t, vector(t, "a-p256.bin"))
	blob, _, _ := tlv.Parse(p[0])
	c := &Container{Blob: blob.Value, Description: append(bytes.Clone(p[1]), 0, 0, 0xFF), Certificate: append(bytes.Clone(p[2]), 0x30)}
	if !bytes.Equal(c.Encode(), vector(t, "a-p256.bin")) {
		t.Error("old tails of files are written")
	}
}

func FuzzParseContainer(f *testing.F) {
	for _, g := range goldenKeys {
		f.Add(vector(f, g.file))
		p := parts(f, vector(f, g.file))
		f.Add(tlv.Encode(0x30, p[0], p[len(p)-1]))
		f.Add(p[0])
	}
	f.Add(vector(f, "withcert.crt.der"))
	f.Fuzz(func(t *testing.T, file []byte) { checkMutant(t, file, nil, nil, nil) })
}
