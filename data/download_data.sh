#!/usr/bin/env bash
# Fetches the 15 DTU scans with masks and cameras into data/DTU/scan<N>, of the checkout or, if this script comes
# with an installed package, of the working directory.
#
#   data/download_data.sh               download (an interrupted download goes on where it stopped) and unpack
#   data/download_data.sh ARCHIVE.zip   unpack an archive that you have already
#
# Environment: IDR_DTU_URL   another place to fetch the archive from
#              IDR_DATA_ROOT another folder than data/ to put DTU/ into
#
# Scans that are there and complete are left alone. A scan appears under its name only once it is unpacked and
# checked. Exit status: 0 all 15 scans are there; 1 the download failed; 2 wrong usage or a tool is missing;
# 3 the archive is damaged or no zip; 4 the archive lacks scans or parts of them; 5 nothing can be written.
set -euo pipefail

readonly DEFAULT_URL="https://www.dropbox.com/s/ujmakiaiekdl6sh/DTU.zip?dl=1"
readonly FOLDER_VIEW="https://www.dropbox.com/sh/5tam07ai8ch90pf/AADniBT3dmAexvm_J1oL__uoa"
readonly SCANS="24 37 40 55 63 65 69 83 97 105 106 110 114 118 122"

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[ -d "$here/../code/idr" ] || here="$PWD/data"
root="${IDR_DATA_ROOT:-$here}"
url="${IDR_DTU_URL:-$DEFAULT_URL}"
archive="$root/DTU.zip"
partial="$archive.part"
unpacking="$root/.DTU_unpacking"

say() { printf '%s\n' "$*"; }

fail() { # status, message
    local status="$1"
    shift
    printf 'error: %s\n' "$*" >&2
    exit "$status"
}

by_hand() {
    cat >&2 <<TEXT
To do it by hand: open
    $url
(or the folder view $FOLDER_VIEW)
in a browser, save the archive as
    $archive
and run this script again; or give it the place where you saved it:
    ${BASH_SOURCE[0]} /path/to/DTU.zip
It unpacks to $root/DTU/scan24, scan37, ... with image/, mask/ and cameras.npz in each.
TEXT
}

has() { command -v "$1" >/dev/null 2>&1; }

count_files() { find "$1" -maxdepth 1 -type f ! -name '.*' 2>/dev/null | wc -l; }

starts_like_zip() { [ "$(head -c 2 "$1" 2>/dev/null | tr -d '\0')" = "PK" ]; }

# What a scan folder lacks, in words; nothing if it is complete.
faults_of() {
    local scan="$1" images masks
    images="$(count_files "$scan/image")"
    masks="$(count_files "$scan/mask")"
    if [ "$images" -eq 0 ]; then
        say "no images"
    elif [ "$images" -ne "$masks" ]; then
        say "$images images but $masks masks"
    elif ! starts_like_zip "$scan/cameras.npz"; then
        say "no usable cameras.npz"
    fi
}

# The scans that are not there in full, as numbers.
wanted_scans() {
    local number
    for number in $SCANS; do
        if [ -n "$(faults_of "$root/DTU/scan$number")" ]; then
            printf '%s ' "$number"
        fi
    done
}

python_name() {
    local name
    for name in python3 python; do
        if has "$name"; then
            say "$name"
            return
        fi
    done
}

# Whether every member of the archive can be read back with its checksum.
archive_is_sound() {
    starts_like_zip "$1" || return 1
    if has unzip; then
        unzip -tqq "$1" >/dev/null 2>&1
    else
        "$(python_name)" -c 'import sys, zipfile; sys.exit(zipfile.ZipFile(sys.argv[1]).testzip() is not None)' \
            "$1" >/dev/null 2>&1
    fi
}

unpack() { # archive, folder
    if has unzip; then
        unzip -q -o "$1" -d "$2"
    else
        "$(python_name)" -m zipfile -e "$1" "$2"
    fi
}

fetch_into_partial() {
    if has curl; then
        curl --fail --location --retry 3 --connect-timeout 30 --continue-at - --output "$partial" "$url"
    else
        wget --continue --tries=4 --timeout=30 --output-document="$partial" "$url"
    fi
}

download() {
    if [ -f "$partial" ] && archive_is_sound "$partial"; then
        say "the download in $partial is complete"
    else
        has curl || has wget || {
            by_hand
            fail 2 "neither curl nor wget is installed: install one of them, or fetch the archive by hand (see above)"
        }
        if [ -f "$partial" ]; then
            say "going on with $partial ($(wc -c <"$partial") bytes so far)"
        else
            say "fetching $url"
        fi
        local status=0
        fetch_into_partial || status=$?
        if [ "$status" -eq 33 ]; then # curl: the server cannot go on in the middle
            rm -f "$partial"
            status=0
            fetch_into_partial || status=$?
        fi
        if [ "$status" -ne 0 ]; then
            by_hand
            local kept="nothing was fetched; run this again when the network is there"
            [ ! -s "$partial" ] ||
                kept="what came is kept in $partial: run this again to go on, or delete that file to start anew"
            fail 1 "the download failed (status $status: no network, the link is gone, or the connection broke); $kept"
        fi
        if ! starts_like_zip "$partial"; then
            rm -f "$partial"
            by_hand
            fail 3 "$url did not give a zip archive but something else (a web page: the link may be gone)"
        fi
        if ! archive_is_sound "$partial"; then
            rm -f "$partial"
            fail 3 "the downloaded archive was damaged and has been removed; run this again to fetch it anew"
        fi
    fi
    mv -f "$partial" "$archive"
}

# Moves the wanted scans out of the unpacked tree; returns how many could not be had.
install_scans() {
    local number source target faults missing=0 aside
    for number in $1; do
        target="$root/DTU/scan$number"
        source="$unpacking/DTU/scan$number"
        [ -d "$source" ] || source="$unpacking/scan$number"
        if [ ! -d "$source" ]; then
            say "scan$number: not in the archive"
            missing=$((missing + 1))
            continue
        fi
        faults="$(faults_of "$source")"
        if [ -n "$faults" ]; then
            say "scan$number: incomplete in the archive ($faults)"
            missing=$((missing + 1))
            continue
        fi
        if [ -e "$target" ]; then
            aside="$root/DTU/incomplete_scan$number"
            while [ -e "$aside" ]; do aside="${aside}_"; done
            mv "$target" "$aside" || return 255
            say "scan$number: what was there was incomplete and is now $aside"
        fi
        mv "$source" "$target" || return 255
        [ -f "$target/cameras_linear_init.npz" ] ||
            say "scan$number: has no cameras_linear_init.npz; it cannot be trained with --train_cameras"
        say "scan$number: $(count_files "$target/image") views"
    done
    return "$missing"
}

main() {
    if [ "$#" -gt 1 ] || [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then
        sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}"
        [ "$#" -le 1 ] || exit 2
        exit 0
    fi
    has unzip || [ -n "$(python_name)" ] ||
        fail 2 "neither unzip nor python3 is installed: install one of them (for example: apt-get install unzip)"

    local wanted
    wanted="$(wanted_scans)"
    if [ -z "$wanted" ]; then
        say "all 15 scans are in $root/DTU already"
        exit 0
    fi
    mkdir -p "$root/DTU" 2>/dev/null || fail 5 "cannot write to $root: choose another folder with IDR_DATA_ROOT"

    local downloaded=no
    if [ "$#" -eq 1 ]; then
        archive="$1"
        [ -f "$archive" ] || fail 2 "no file $archive; expected the DTU archive (a zip)"
    else
        downloaded=yes
        [ -f "$archive" ] || download
    fi
    say "checking $archive"
    if ! archive_is_sound "$archive"; then
        by_hand
        fail 3 "$archive is no zip archive or is damaged (cut short?); remove it and fetch it again"
    fi

    rm -rf "$unpacking"
    trap 'rm -rf "$unpacking"' EXIT
    mkdir "$unpacking" || fail 5 "cannot write to $root: choose another folder with IDR_DATA_ROOT"
    unpack "$archive" "$unpacking" || fail 5 "unpacking into $root failed: is the disk full? $archive is kept"

    local missing=0
    install_scans "$wanted" || missing=$?
    [ "$missing" -ne 255 ] || fail 5 "cannot move scans into $root/DTU; $archive is kept"
    if [ "$missing" -ne 0 ]; then
        by_hand
        fail 4 "$missing of the 15 scans are not (fully) in $archive; the others are in place"
    fi
    if [ "$downloaded" = yes ]; then
        rm -f "$archive"
    fi
    say "all 15 scans are in $root/DTU"
}

main "$@"
