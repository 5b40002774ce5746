module github.com/mslkeep/mslkeep

go 1.26
