module github.com/loki-go/loki-go/tools/esclient

go 1.26.5

require github.com/elastic/go-elasticsearch/v7 v7.17.10
