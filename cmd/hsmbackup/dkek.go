package main

import "github.com/spf13/cobra"

func newDKEKCommand(a *app) *cobra.Command {
	return parent("dkek", "the recovery key (DKEK): make shares, check them, load them",
		`Keys leave a token wrapped under its recovery key, the DKEK. The recovery key
is the XOR of its shares: all of them are needed, in any order. A share is kept
in a file under a password (.pbe, the format of sc-hsm-tool), or split into parts
among custodians, any K of N of whom bring it together. The first 8 bytes of the
key's SHA-256, the KCV, name it.`,
		`  hsmbackup dkek create --out share1.pbe
  hsmbackup dkek check share1.pbe
  hsmbackup dkek load --share share1.pbe`,
		newDKEKCreateCommand(a), newDKEKCheckCommand(a), newDKEKConvertCommand(a), newDKEKLoadCommand(a),
		newDKEKSplitCommand(a), newDKEKCombineCommand(a), newDKEKRollCallCommand(a), newDKEKResplitCommand(a),
		newDKEKRekeyCommand(a), newDKEKSheetCommand(a))
}
