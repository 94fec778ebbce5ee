package curve

//lint:file-ignore SA1019 arithmetic on curves which only the deprecated elliptic.Curve interface can carry

import (
	"crypto/elliptic"
	"math/big"
)

// weierstrass is y² = x³ + a·x + b over a prime field with whatever a, in affine
// coordinates: slow, and not constant time. It serves curves that no library has.
// The point at infinity is 0, 0.
type weierstrass struct {
	params *elliptic.CurveParams
	a      *big.Int
}

// generic makes a curve of its parameters in hex (RFC 5639; SEC 2).
func generic(name, p, a, b, gx, gy, n string) elliptic.Curve {
	number := func(hex string) *big.Int {
		v, _ := new(big.Int).SetString(hex, 16)
		return v
	}
	params := &elliptic.CurveParams{Name: name, P: number(p), N: number(n), B: number(b), Gx: number(gx), Gy: number(gy)}
	params.BitSize = params.P.BitLen()
	return &weierstrass{params, number(a)}
}

func (w *weierstrass) Params() *elliptic.CurveParams { return w.params }

func (w *weierstrass) IsOnCurve(x, y *big.Int) bool {
	p := w.params.P
	if x.Sign() < 0 || y.Sign() < 0 || x.Cmp(p) >= 0 || y.Cmp(p) >= 0 {
		return false
	}
	right := new(big.Int).Mul(x, x)
	right.Add(right, w.a).Mul(right, x).Add(right, w.params.B).Mod(right, p)
	left := new(big.Int).Mul(y, y)
	return left.Mod(left, p).Cmp(right) == 0
}

func (w *weierstrass) Add(x1, y1, x2, y2 *big.Int) (x, y *big.Int) {
	switch {
	case x1.Sign() == 0 && y1.Sign() == 0:
		return new(big.Int).Set(x2), new(big.Int).Set(y2)
	case x2.Sign() == 0 && y2.Sign() == 0:
		return new(big.Int).Set(x1), new(big.Int).Set(y1)
	case x1.Cmp(x2) == 0 && y1.Cmp(y2) == 0:
		return w.Double(x1, y1)
	case x1.Cmp(x2) == 0:
		return new(big.Int), new(big.Int)
	}
	return w.chord(x1, y1, x2, new(big.Int).Sub(y2, y1), new(big.Int).Sub(x2, x1))
}

func (w *weierstrass) Double(x1, y1 *big.Int) (x, y *big.Int) {
	if y1.Sign() == 0 { // infinity too
		return new(big.Int), new(big.Int)
	}
	rise := new(big.Int).Mul(x1, x1)
	rise.Mul(rise, big.NewInt(3)).Add(rise, w.a)
	return w.chord(x1, y1, x1, rise, new(big.Int).Lsh(y1, 1))
}

// chord gives the third point of a line of that slope, reflected.
func (w *weierstrass) chord(x1, y1, x2, rise, run *big.Int) (x, y *big.Int) {
	p := w.params.P
	slope := new(big.Int).ModInverse(run.Mod(run, p), p)
	slope.Mul(slope, rise).Mod(slope, p)
	x = new(big.Int).Mul(slope, slope)
	x.Sub(x, x1).Sub(x, x2).Mod(x, p)
	y = new(big.Int).Sub(x1, x)
	y.Mul(y, slope).Sub(y, y1).Mod(y, p)
	return x, y
}

func (w *weierstrass) ScalarMult(x1, y1 *big.Int, k []byte) (x, y *big.Int) {
	x, y = new(big.Int), new(big.Int)
	for _, b := range k {
		for bit := 7; bit >= 0; bit-- {
			x, y = w.Double(x, y)
			if b>>bit&1 == 1 {
				x, y = w.Add(x, y, x1, y1)
			}
		}
	}
	return x, y
}

func (w *weierstrass) ScalarBaseMult(k []byte) (x, y *big.Int) {
	return w.ScalarMult(w.params.Gx, w.params.Gy, k)
}

// generics are curves that no library here has, and that OpenSC lets a token hold.
var generics = []*Curve{
	define("brainpoolP192r1", generic("brainpoolP192r1",
		"C302F41D932A36CDA7A3463093D18DB78FCE476DE1A86297",
		"6A91174076B1E0E19C39C031FE8685C1CAE040E5C69A28EF",
		"469A28EF7C28CCA3DC721D044F4496BCCA7EF4146FBF25C9",
		"C0A0647EAAB6A48753B033C56CB0F0900A2F5C4853375FD6",
		"14B690866ABD5BB88B5F4828C1490002E6773FA2FA299B8F",
		"C302F41D932A36CDA7A3462F9E9E916B5BE8F1029AC4ACC1"), "1.3.36.3.3.2.8.1.1.3"),
	define("brainpoolP192t1", generic("brainpoolP192t1",
		"C302F41D932A36CDA7A3463093D18DB78FCE476DE1A86297",
		"C302F41D932A36CDA7A3463093D18DB78FCE476DE1A86294",
		"13D56FFAEC78681E68F9DEB43B35BEC2FB68542E27897B79",
		"3AE9E58C82F63C30282E1FE7BBF43FA72C446AF6F4618129",
		"097E2C5667C2223A902AB5CA449D0084B7E5B3DE7CCC01C9",
		"C302F41D932A36CDA7A3462F9E9E916B5BE8F1029AC4ACC1"), "1.3.36.3.3.2.8.1.1.4"),
	define("brainpoolP224r1", generic("brainpoolP224r1",
		"D7C134AA264366862A18302575D1D787B09F075797DA89F57EC8C0FF",
		"68A5E62CA9CE6C1C299803A6C1530B514E182AD8B0042A59CAD29F43",
		"2580F63CCFE44138870713B1A92369E33E2135D266DBB372386C400B",
		"0D9029AD2C7E5CF4340823B2A87DC68C9E4CE3174C1E6EFDEE12C07D",
		"58AA56F772C0726F24C6B89E4ECDAC24354B9E99CAA3F6D3761402CD",
		"D7C134AA264366862A18302575D0FB98D116BC4B6DDEBCA3A5A7939F"), "1.3.36.3.3.2.8.1.1.5"),
	define("brainpoolP224t1", generic("brainpoolP224t1",
		"D7C134AA264366862A18302575D1D787B09F075797DA89F57EC8C0FF",
		"D7C134AA264366862A18302575D1D787B09F075797DA89F57EC8C0FC",
		"4B337D934104CD7BEF271BF60CED1ED20DA14C08B3BB64F18A60888D",
		"6AB1E344CE25FF3896424E7FFE14762ECB49F8928AC0C76029B4D580",
		"0374E9F5143E568CD23F3F4D7C0D4B1E41C8CC0D1C6ABD5F1A46DB4C",
		"D7C134AA264366862A18302575D0FB98D116BC4B6DDEBCA3A5A7939F"), "1.3.36.3.3.2.8.1.1.6"),
	define("brainpoolP320r1", generic("brainpoolP320r1",
		"D35E472036BC4FB7E13C785ED201E065F98FCFA6F6F40DEF4F92B9EC7893EC28FCD412B1F1B32E27",
		"3EE30B568FBAB0F883CCEBD46D3F3BB8A2A73513F5EB79DA66190EB085FFA9F492F375A97D860EB4",
		"520883949DFDBC42D3AD198640688A6FE13F41349554B49ACC31DCCD884539816F5EB4AC8FB1F1A6",
		"43BD7E9AFB53D8B85289BCC48EE5BFE6F20137D10A087EB6E7871E2A10A599C710AF8D0D39E20611",
		"14FDD05545EC1CC8AB4093247F77275E0743FFED117182EAA9C77877AAAC6AC7D35245D1692E8EE1",
		"D35E472036BC4FB7E13C785ED201E065F98FCFA5B68F12A32D482EC7EE8658E98691555B44C59311"), "1.3.36.3.3.2.8.1.1.9"),
	define("brainpoolP320t1", generic("brainpoolP320t1",
		"D35E472036BC4FB7E13C785ED201E065F98FCFA6F6F40DEF4F92B9EC7893EC28FCD412B1F1B32E27",
		"D35E472036BC4FB7E13C785ED201E065F98FCFA6F6F40DEF4F92B9EC7893EC28FCD412B1F1B32E24",
		"A7F561E038EB1ED560B3D147DB782013064C19F27ED27C6780AAF77FB8A547CEB5B4FEF422340353",
		"925BE9FB01AFC6FB4D3E7D4990010F813408AB106C4F09CB7EE07868CC136FFF3357F624A21BED52",
		"63BA3A7A27483EBF6671DBEF7ABB30EBEE084E58A0B077AD42A5A0989D1EE71B1B9BC0455FB0D2C3",
		"D35E472036BC4FB7E13C785ED201E065F98FCFA5B68F12A32D482EC7EE8658E98691555B44C59311"), "1.3.36.3.3.2.8.1.1.10"),
	define("secp192k1", generic("secp192k1",
		"FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFEE37",
		"000000000000000000000000000000000000000000000000",
		"000000000000000000000000000000000000000000000003",
		"DB4FF10EC057E9AE26B07D0280B7F4341DA5D1B1EAE06C7D",
		"9B2F2F6D9C5628A7844163D015BE86344082AA88D95E2F9D",
		"FFFFFFFFFFFFFFFFFFFFFFFE26F2FC170F69466A74DEFD8D"), "1.3.132.0.31"),
}
