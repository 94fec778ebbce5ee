package dkek

import "math/big"

var one = big.NewInt(1)

// completeRSA works out whatever of d, p, q and the CRT numbers is missing and
// checks all of them against n and e.
func (p *PrivateKey) completeRSA() error {
	if p.checked {
		return nil
	}
	if p.d == nil && p.p == nil {
		return errKeyWiped
	}
	if p.p == nil {
		if p.p, p.q = factor(p.n, p.e, p.d); p.p == nil {
			return fail(ErrMismatch, "RSA key: n, e and d do not belong together")
		}
	}
	product := new(big.Int).Mul(p.p, p.q)
	if p.p.Cmp(one) <= 0 || p.q.Cmp(one) <= 0 || p.p.Cmp(p.q) == 0 || product.Cmp(p.n) != 0 {
		return fail(ErrMismatch, "RSA key: p and q are not the factors of n")
	}
	// One Miller-Rabin round and Baillie-PSW: this finds damage, not an
	// adversary, who does not get past the blob's authentication.
	if !p.p.ProbablyPrime(1) || !p.q.ProbablyPrime(1) {
		return fail(ErrMismatch, "RSA key: p and q are not prime")
	}
	p1, q1 := new(big.Int).Sub(p.p, one), new(big.Int).Sub(p.q, one)
	defer wipeInt(p1)
	defer wipeInt(q1)
	e := big.NewInt(int64(p.e))
	if p.d == nil {
		// lcm(p-1, q-1) gives the least d; any that fits will do
		gcd := new(big.Int).GCD(nil, nil, p1, q1)
		lcm := new(big.Int).Mul(p1, q1)
		lcm.Div(lcm, gcd)
		d := new(big.Int).ModInverse(e, lcm)
		wipeInt(lcm)
		if d == nil {
			return fail(ErrMismatch, "RSA key: e does not fit p and q")
		}
		p.d = d
	}
	if p.d.Sign() <= 0 || p.d.Cmp(p.n) >= 0 {
		return fail(ErrMismatch, "RSA key: private exponent out of range")
	}
	for _, prime1 := range []*big.Int{p1, q1} {
		ed := new(big.Int).Mul(e, p.d)
		ed.Mod(ed, prime1)
		ok := ed.Cmp(one) == 0
		wipeInt(ed)
		if !ok {
			return fail(ErrMismatch, "RSA key: n, e and d do not belong together")
		}
	}
	if !agree(&p.dP, new(big.Int).Mod(p.d, p1)) || !agree(&p.dQ, new(big.Int).Mod(p.d, q1)) ||
		!agree(&p.qInv, new(big.Int).ModInverse(p.q, p.p)) {
		return fail(ErrMismatch, "RSA key: the CRT numbers do not fit p and q")
	}
	p.checked = true
	return nil
}

// agree sets a number that is missing and compares one that is not.
func agree(have **big.Int, want *big.Int) bool {
	if *have == nil {
		*have = want
		return true
	}
	ok := (*have).Cmp(want) == 0
	wipeInt(want)
	return ok
}

// factor finds the primes of n from e and d by the usual probabilistic method
// (fact sheet §6.8): e·d-1 is a multiple of the order of every g, so halving
// it leads to a square root of 1, and every second g to one that is not ±1.
// Nil if e and d do not undo each other.
func factor(n *big.Int, exponent int, d *big.Int) (p, q *big.Int) {
	k := new(big.Int).Mul(big.NewInt(int64(exponent)), d)
	k.Sub(k, one)
	defer wipeInt(k)
	if k.Sign() <= 0 || k.Bit(0) != 0 {
		return nil, nil
	}
	t := k.TrailingZeroBits()
	odd := new(big.Int).Rsh(k, t)
	defer wipeInt(odd)
	minus1 := new(big.Int).Sub(n, one)
	for g := int64(2); g < 200; g++ {
		root := new(big.Int).Exp(big.NewInt(g), odd, n)
		if root.Cmp(one) == 0 || root.Cmp(minus1) == 0 {
			continue
		}
		found := false
		for range t {
			square := new(big.Int).Mul(root, root)
			square.Mod(square, n)
			if square.Cmp(one) == 0 {
				found = true
				break
			}
			if square.Cmp(minus1) == 0 {
				break // this g leads to -1: try the next
			}
			root = square
			if root.Sign() == 0 {
				break
			}
		}
		if !found {
			if new(big.Int).Exp(big.NewInt(g), k, n).Cmp(one) != 0 {
				return nil, nil
			}
			continue
		}
		p = new(big.Int).GCD(nil, nil, root.Sub(root, one), n)
		q = new(big.Int).Div(n, p)
		return p, q
	}
	return nil, nil
}
