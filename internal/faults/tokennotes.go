package faults

import (
	"fmt"
	"time"

	"hsmbackup/internal/cvc"
)

// TokenNotes are what must be known of a token by its certificates (EF 2F02),
// and is no reason to refuse it: those that have expired, and a device that is
// not of the vendor's production. They go by names and dates alone; whether the
// token is what it says, TrustToken finds out.
func TokenNotes(certificates []byte, now time.Time) []string {
	if len(certificates) == 0 {
		return []string{"it shows no device certificate: nothing tells this token from another"}
	}
	chain, err := cvc.ParseChain(certificates)
	if err != nil {
		return []string{fmt.Sprintf("its device certificate cannot be read: %v", err)}
	}
	var list []string
	root, err := chain.Verify(cvc.VendorRoots())
	maker := chain.Maker()
	switch {
	case err == nil && root.Kind == cvc.RootProduction, maker == cvc.MakerSoftware: // said elsewhere
	case err == nil:
		list = append(list, fmt.Sprintf("its certificate leads to the vendor's %s root: it is %s", root.Kind, maker))
	case maker != "":
		list = append(list, fmt.Sprintf("its certificate does not lead to the vendor's root; by the names in it, it is %s", maker))
	default:
		list = append(list, "its certificate does not lead to the vendor's root, and names no maker that is known")
	}
	return append(list, Expired(chain, now)...)
}

// Expired names the certificates of a chain whose time is over; nil has none.
func Expired(chain *cvc.Chain, now time.Time) []string {
	if chain == nil {
		return nil
	}
	var list []string
	for _, c := range chain.Expired(now) {
		whose := "the certificate of its issuer " + c.CHR
		if c == chain.Device {
			whose = "its device certificate"
		}
		list = append(list, fmt.Sprintf("%s expired on %s: the token works as before, and is taken as before", whose, c.To.Format("2006-01-02")))
	}
	return list
}

// Seems is what TrustToken says of the maker of a token that it refuses.
func Seems(chain *cvc.Chain) string {
	if chain == nil || chain.Maker() == "" {
		return ""
	}
	return "; by the names in its certificates it is " + chain.Maker()
}
