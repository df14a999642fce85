#!/bin/sh
# Installs Nihilo from an archive that `cargo xtask dist` has made, once the archive is proven to be the one
# that its checksum is of. Nothing is changed before that. Run it again for another version; the binary is
# exchanged at once, under a node that runs too: `nihilo node restart NAME` puts it in force.
set -eu

version=0.1.0
prefix=/usr/local
from=$(dirname "$0")
sum=

usage() {
    cat <<'END'
usage: install.sh [--version VERSION] [--prefix DIR] [--from PLACE] [--sha256 HEX]

  --version VERSION   which one; default: the one that this script came with
  --prefix DIR        below which it is installed; default: /usr/local
  --from PLACE        a directory, or an http(s):// address, that has the archive and its .sha256;
                      default: where this script lies
  --sha256 HEX        the checksum, from somewhere that you trust more than PLACE
END
}

fail() {
    echo "error: $1" >&2
    exit "${2:-1}"
}

while [ $# -gt 0 ]; do
    case "$1" in
        --help) usage; exit 0 ;;
        --version | --prefix | --from | --sha256)
            [ $# -ge 2 ] || fail "$1 wants a value; see --help" 2
            case "$1" in
                --version) version=$2 ;;
                --prefix) prefix=$2 ;;
                --from) from=$2 ;;
                --sha256) sum=$2 ;;
            esac
            shift 2 ;;
        *) usage >&2; fail "$1 is not known" 2 ;;
    esac
done

case "$version" in
    '' | *[!0-9A-Za-z.+~-]*) fail "\`$version\` is no version" 2 ;;
esac
case "$prefix" in
    /*) ;;
    *) fail "--prefix \`$prefix\`: must begin with a slash" 2 ;;
esac
[ "$(uname -s)" = Linux ] || fail "this is not Linux"
case "$(uname -m)" in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) fail "no archive is made for $(uname -m)" ;;
esac

name=nihilo-$version-linux-$architecture
archive=$name.tar.gz
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

fetch() {
    case "$from" in
        http://* | https://*)
            if command -v curl >/dev/null; then
                curl --fail --silent --show-error --location --output "$work/$1" "$from/$1"
            else
                wget --quiet --output-document="$work/$1" "$from/$1"
            fi ;;
        *) cp "$from/$1" "$work/$1" ;;
    esac || fail "\`$1\` is not in $from: name another --from or --version"
}

fetch "$archive"
if [ -z "$sum" ]; then
    fetch "$archive.sha256"
    sum=$(cut -d' ' -f1 "$work/$archive.sha256")
fi
found=$(sha256sum "$work/$archive" | cut -d' ' -f1)
[ "$found" = "$sum" ] || fail "$archive has the checksum $found, not $sum: fetch it again, and if that \
does not help, do not use it"

tar -C "$work" -xzf "$work/$archive"
[ -x "$work/$name/bin/nihilo" ] || fail "$archive holds no $name/bin/nihilo"
# A binary of another system says so before it is anybody's.
"$work/$name/bin/nihilo" version >/dev/null || fail "this binary does not run here"
unit=lib/systemd/system/nihilo.service
sed "s#/usr/bin/nihilo#$prefix/bin/nihilo#g; s#/usr/share/doc#$prefix/share/doc#g" \
    "$work/$name/$unit" >"$work/unit"
mv "$work/unit" "$work/$name/$unit"
chmod 644 "$work/$name/$unit"

install_file() {
    mkdir -p "$(dirname "$prefix/$1")"
    # Beside it and then over it: what runs keeps the file that it was started from.
    cp -p "$work/$name/$1" "$prefix/$1.new"
    mv -f "$prefix/$1.new" "$prefix/$1"
}

(cd "$work/$name" && find . -type f | sed 's#^\./##' | sort) >"$work/files"
while IFS= read -r file; do
    install_file "$file"
done <"$work/files"

echo "$("$prefix/bin/nihilo" version) is in $prefix/bin"
if [ -d /run/systemd/system ] && [ "$prefix" = /usr/local ]; then
    echo "next: adduser --system --group --no-create-home --home /var/lib/nihilo nihilo"
    echo "      install -D -m 644 $prefix/share/doc/nihilo/examples/node.yaml /etc/nihilo/node.yaml"
    echo "      edit it, then: systemctl daemon-reload && systemctl enable --now nihilo"
fi
