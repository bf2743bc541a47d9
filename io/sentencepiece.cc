// The C face of libsentencepiece. No exception and no C++ type leaves this file; what the pieces mean for encoding is
// io/tokenizer_spm.c's.
#include "io/sentencepiece.h"

#include <memory>
#include <new>
#include <sentencepiece_processor.h>
#include <string>
#include <vector>

struct SentencePiece {
    sentencepiece::SentencePieceProcessor processor;
};

SentencePiece *sentencepiece_open(const void *bytes, size_t size) {
    try {
        std::unique_ptr<SentencePiece> model(new SentencePiece);
        if (model->processor.LoadFromSerializedProto({static_cast<const char *>(bytes), size}).ok())
            return model.release();
    } catch (const std::exception &) {
    }
    return nullptr;
}

void sentencepiece_close(SentencePiece *model) {
    delete model;
}

int32_t sentencepiece_count(const SentencePiece *model) {
    return model->processor.GetPieceSize();
}

int32_t sentencepiece_bos(const SentencePiece *model) {
    return model->processor.bos_id();
}

int32_t sentencepiece_eos(const SentencePiece *model) {
    return model->processor.eos_id();
}

const char *sentencepiece_text(const SentencePiece *model, int32_t id) {
    return model->processor.IdToPiece(id).c_str();
}

float sentencepiece_score(const SentencePiece *model, int32_t id) {
    return model->processor.GetScore(id);
}

PieceKind sentencepiece_kind(const SentencePiece *model, int32_t id) {
    if (model->processor.IsUnknown(id)) return PIECE_UNKNOWN;
    if (model->processor.IsControl(id)) return PIECE_CONTROL;
    if (model->processor.IsUnused(id)) return PIECE_UNUSED;
    if (model->processor.IsByte(id)) return PIECE_BYTE;
    return PIECE_NORMAL;
}

bool sentencepiece_merges_pairs(const SentencePiece *model) {
    // The library does not tell the model type; the entropy of segmentations is defined for unigram models only.
    try {
        float entropy = 0;
        return !model->processor.CalculateEntropy("a", 1.0f, &entropy).ok();
    } catch (const std::exception &) {
        return false;
    }
}

bool sentencepiece_keeps_text(const SentencePiece *model) {
    // Nor does it tell the normaliser. This text has all that the library's rules would change: several spaces, a tab,
    // a space at either end, a full-width letter, a ligature, a letter with a separate accent, an ideographic space.
    const std::string probe = "  \xEF\xBC\xA1  \xEF\xAC\x81\te\xCC\x81\xE3\x80\x80 ";
    const std::string space = "\xE2\x96\x81";
    std::string expected = space;
    for (char c : probe) expected += c == ' ' ? space : std::string(1, c);
    std::string got;
    try {
        std::vector<std::string> pieces;
        if (!model->processor.Encode(probe, &pieces).ok()) return false;
        for (const std::string &piece : pieces) {
            if (model->processor.IsByte(model->processor.PieceToId(piece)))
                got += static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16));
            else
                got += piece;
        }
    } catch (const std::exception &) {
        return false;
    }
    return got == expected;
}
