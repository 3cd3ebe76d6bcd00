#!/usr/bin/env bash
# Creates a release archive: `package.sh TARGET DIR` writes rtp-VERSION-TARGET.tar.gz to DIR, with the binary RTP_BIN, its
# man pages and completions, the example dataset and the licence. The same input gives the same bytes.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=$1 dir=$2
rtp=${RTP_BIN:-$root/target/release/rtp}
version=$("$rtp" --version | cut -d' ' -f2)
name=rtp-$version-$target
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/$name"/{man/man1,completions} "$dir"
install -m 755 "$rtp" "$work/$name/rtp"
install -m 644 "$root"/{LICENSE,README.md,CHANGELOG.md} "$root/schema/users.toml" "$work/$name/"
"$rtp" man > "$work/$name/man/man1/rtp.1"
"$rtp" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z][a-z-]*\)  .*/\1/p' | while read -r command; do
  "$rtp" man "$command" > "$work/$name/man/man1/rtp-$command.1"
done
for shell in bash zsh fish; do "$rtp" completions "$shell" > "$work/$name/completions/rtp.$shell"; done

tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-0}" -C "$work" -cf - "$name" |
  gzip -9n > "$dir/$name.tar.gz"
echo "$dir/$name.tar.gz"
