#!/bin/sh
# The main job on software tokens, as a story: back up, prove, take the token
# through a firmware update, lose it, restore, prove. Works in a temporary folder that it removes.
set -eu
umask 077
cd "$(dirname "$0")/.."
PATH="$PWD/bin:$PATH"
work=$(mktemp -d "${TMPDIR:-/tmp}/hsmbackup-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
cd "$work"
unset HSMBACKUP_CATALOG
export HSMBACKUP_CATALOG=catalog.db

step=0
say() {
	step=$((step + 1))
	printf '\n%s. %s\n' "$step" "$1"
}
# expect shows a command, as it would be typed, and what it prints; it has to end
# with that exit code. run expects 0, refused what a guard gives.
expect() {
	want=$1
	shift
	printf '   $'
	for word; do
		case $word in
		*[!A-Za-z0-9_./:=,-]* | '') printf " '%s'" "$word" ;;
		*) printf ' %s' "$word" ;;
		esac
	done
	printf '\n'
	code=0
	"$@" >out 2>&1 || code=$?
	sed 's/^/     /' out
	if [ "$code" != "$want" ]; then
		echo "demo: exit code $code, expected was $want"
		exit 1
	fi
}
run() { expect 0 "$@"; }
refused() { expect 6 "$@"; }
# Throw-away secrets, from files: a person would type them.
digits() { od -An -N16 -tu1 /dev/urandom | tr -dc 0-9 | cut -c1-"$1"; }
digits 8 >PIN
digits 16 >SO
od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >PW
SECRETS='--pin file:PIN --so-pin file:SO --password file:PW'

echo "hsmbackup demo: the token with the SSH CA must be wiped, and then it is lost."
echo "Software tokens play the hardware; everything else is the real thing."

say "A recovery key (DKEK): one share, in a password-protected file that sc-hsm-tool could read too."
run hsmbackup dkek create --out share1.pbe --password file:PW

say "A token, set up with that recovery key."
run hsmbackup soft new stick.tok --firmware 3.5 --serial SOFT0200001
run hsmbackup init --token soft:stick.tok --share share1.pbe --label ssh $SECRETS --confirm SOFT0200001

say "The keys that matter: an SSH CA and a login key. They are made on the token and never leave it in clear."
run hsmbackup soft keygen stick.tok --type rsa:4096 --label "SSH CA" --id 01 --pin file:PIN
run hsmbackup soft keygen stick.tok --type ec:prime256v1 --label "SSH HSM" --id 02 --pin file:PIN

say "Backup. Each key is exported wrapped, and the token itself proves that it comes back."
run hsmbackup backup --token soft:stick.tok --pin file:PIN
hsmbackup show latest --ssh >before
run hsmbackup check

say "A firmware update is due. The vendor refuses it while the token holds keys:"
refused hsmbackup soft update stick.tok --firmware 3.6 --serial SOFT0400001

say "So one command proves every key once more, copies the catalog elsewhere, and only then empties the token."
run hsmbackup firmware-update --token soft:stick.tok --copy-to copies/ --same-disk-anyway --share share1.pbe $SECRETS --confirm SOFT0200001 --yes

say "The vendor's part: the token comes back without PIN, with a new serial number and certificate."
run hsmbackup soft update stick.tok --firmware 3.6 --serial SOFT0400001
run hsmbackup status --token soft:stick.tok

say "The same command goes on: initialise, load the share, every key under its reference, each one used, and a new backup."
run hsmbackup firmware-update --token soft:stick.tok --share share1.pbe $SECRETS --confirm SOFT0400001 --yes

say "Then that token is lost. Another one, and what a restore would do; then the restore."
rm stick.tok
run hsmbackup soft new spare.tok --firmware 4.1 --serial SOFT0400002
run hsmbackup plan --from SOFT0400001 --token soft:spare.tok
run hsmbackup restore --from SOFT0400001 --token soft:spare.tok --init --share share1.pbe $SECRETS --confirm SOFT0400002

say "A first backup of the token that took its place, proven like the others."
run hsmbackup backup --token soft:spare.tok --pin file:PIN
hsmbackup show SOFT0400002 --ssh >after

say "The SSH public keys, whole. Servers and users that trusted them go on trusting them."
echo
echo "at first:"
cat before
echo
echo "on the spare token:"
cat after
echo
cmp before after
echo "The lines are the same. Demo done; its folder $work is removed."
