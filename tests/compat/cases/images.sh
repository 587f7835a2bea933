# imagemagick: temporary files, mapped pixels
# keep: *.jpg
# served: convert identify montage
convert -size 300x200 gradient:red-blue a.png && convert a.png -resize 50% b.jpg
identify a.png b.jpg | cut -d' ' -f2,3
for i in 1 2 3; do convert a.png -rotate $((i * 10)) "r$i.jpg"; done
montage r*.jpg -geometry +2+2 m.jpg && identify m.jpg | cut -d' ' -f2
