#!/bin/sh
# Write the files that the tests read, from the three sources beside this script, by LibreOffice. Usage: sh make.sh
set -e
cd "$(dirname "$0")"
profile=$(mktemp -d)
convert() {
  soffice --headless "-env:UserInstallation=file://$profile" --convert-to "$2" "$1" > /dev/null
}
for kind in odt rtf doc docx; do convert text.fodt $kind; done
for kind in ods xls xlsx; do convert sheets.fods $kind; done
for kind in odp ppt pptx; do convert slides.fodp $kind; done
printf text > one.txt
cp one.txt one.csv
convert one.txt doc
convert one.csv xls
gzip -9 -n -f slides.ppt # 600 KB of zero bytes
rm -r "$profile" one.txt one.csv
