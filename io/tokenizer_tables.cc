// The C face of simdjson for tokenizer.json. No exception and no C++ type leaves this file; what the entries must be is
// io/tokenizer_json.c's.
#include "io/tokenizer_tables.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <simdjson.h>
#include <string>
#include <string_view>
#include <vector>

namespace {

using simdjson::dom::element;

struct Document {
    simdjson::dom::parser parser;
    std::vector<VocabularyEntry> vocabulary;
    std::vector<MergeEntry> merges;
    std::string rest;
};

class Reader {
  public:
    Reader(Document &document, TokenizerTables &out) : document_(document), out_(out) {
    }

    void read(simdjson::dom::object root) {
        document_.rest = "{";
        for (auto field : root) {
            if (field.key != "model" || !field.value.is_object())
                keep(field.key, field.value);
            else
                read_model(field.value);
        }
        document_.rest += "}";
    }

  private:
    void problem(const char *format, size_t index) {
        if (out_.problem[0] == '\0') std::snprintf(out_.problem, sizeof out_.problem, format, index);
    }

    // Appends "key": value. Keys that would need escaping are none of a tokenizer's.
    void keep(std::string_view key, element value) {
        for (char c : key)
            if (c < ' ' || c > '~' || c == '"' || c == '\\') return problem("a key is no name", 0);
        if (document_.rest.back() != '{') document_.rest += ",";
        document_.rest.append("\"").append(key).append("\":").append(simdjson::minify(value));
    }

    void read_model(simdjson::dom::object model) {
        if (document_.rest.back() != '{') document_.rest += ",";
        document_.rest += "\"model\":{";
        for (auto field : model) {
            if (field.key == "vocab")
                read_vocabulary(field.value);
            else if (field.key == "merges")
                read_merges(field.value);
            else
                keep(field.key, field.value);
        }
        document_.rest += "}";
    }

    void read_vocabulary(element value) {
        simdjson::dom::object object;
        if (value.get(object)) return problem("model.vocab is no object", 0);
        document_.vocabulary.clear();
        document_.vocabulary.reserve(object.size());
        for (auto field : object) {
            int64_t id;
            if (field.value.get(id))
                return problem("model.vocab: the id of entry %zu is no integer", document_.vocabulary.size());
            document_.vocabulary.push_back({field.key.data(), field.key.size(), id});
        }
    }

    static bool split_line(std::string_view line, MergeEntry &merge) {
        size_t blank = line.find(' ');
        if (blank == line.npos || line.find(' ', blank + 1) != line.npos) return false;
        merge = {line.data(), line.data() + blank + 1, blank, line.size() - blank - 1};
        return true;
    }

    static bool read_merge(element value, MergeEntry &merge) {
        std::string_view line, right;
        if (!value.get(line)) return split_line(line, merge);
        simdjson::dom::array pair;
        if (value.get(pair) || pair.size() != 2 || pair.at(0).get(line) || pair.at(1).get(right)) return false;
        merge = {line.data(), right.data(), line.size(), right.size()};
        return true;
    }

    void read_merges(element value) {
        simdjson::dom::array array;
        if (value.get(array)) return problem("model.merges is no list", 0);
        document_.merges.clear();
        document_.merges.reserve(array.size());
        size_t index = 0;
        for (element one : array) {
            MergeEntry merge;
            std::string_view line;
            const bool version = !one.get(line) && line.substr(0, 8) == "#version"; // the head of a merges.txt
            if (!version && !read_merge(one, merge))
                return problem("model.merges[%zu] is neither \"left right\" nor [\"left\", \"right\"]", index);
            if (!version) document_.merges.push_back(merge);
            index++;
        }
    }

    Document &document_;
    TokenizerTables &out_;
};

} // namespace

TablesResult tokenizer_tables_open(TokenizerTables *out, const char *bytes, size_t size) {
    *out = TokenizerTables{};
    try {
        Document *document = new Document;
        out->document = document;
        simdjson::dom::object root;
        if (document->parser.parse(bytes, size).get(root)) return TABLES_NO_JSON;
        Reader(*document, *out).read(root);
        out->vocabulary = document->vocabulary.data();
        out->vocabulary_count = document->vocabulary.size();
        out->merges = document->merges.data();
        out->merge_count = document->merges.size();
        out->rest = document->rest.data();
        out->rest_bytes = document->rest.size();
        return TABLES_OK;
    } catch (const std::exception &) {
        return TABLES_NO_MEMORY;
    }
}

void tokenizer_tables_close(TokenizerTables *tables) {
    delete static_cast<Document *>(tables->document);
    *tables = TokenizerTables{};
}
