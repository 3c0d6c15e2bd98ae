# ruff: noqa: E501
"""Hand-made responses that keep and break each type: (id, arguments, a text that keeps it, a text that breaks it)."""

_LONG = "We walked home. It was late! Who called? Nobody knows."
_GERMAN = "Wir gehen heute mit den Kindern in den Park und essen dort ein Eis."

IFEVAL = [
    ("punctuation:no_comma", {}, "one two", "one, two"),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "one two three", "one two"),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 3}, "one two", "one two three"),
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 4}, _LONG, "It was late. We went."),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}, "Mr. Smith met Dr. J. Brown. They ate 3.5 apples.", _LONG),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "first\n***\nsecond", "first\n\nsecond"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***first***second***", "first\n***\n\n***\nsecond"),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"}, "Hello there.\n\n\"Weekend, at last.\"", "Hello there.\n\nAt the weekend."),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "a"}, "A\n\nb", "A\n\nb\n\nc"),
    ("keywords:existence", {"keywords": ["cat", "Dog"]}, "A dog and a CATFISH", "A dog"),
    ("keywords:frequency", {"relation": "at least", "keyword": "tea", "frequency": 2}, "Tea or tea", "tea"),
    ("keywords:frequency", {"relation": "less than", "keyword": "a.b", "frequency": 1}, "axb", "a.b"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", "A Cat."),
    ("keywords:letter_frequency", {"let_relation": "at least", "letter": "Q", "let_frequency": 2}, "quite a Queue", "quite"),
    ("keywords:letter_frequency", {"let_relation": "less than", "letter": "#", "let_frequency": 2}, "# one", "## two"),
    ("language:response_language", {"language": "de"}, _GERMAN, "We go to the park with the children and eat ice cream."),
    ("language:response_language", {"language": "en"}, "12345", _GERMAN),
    ("change_case:english_lowercase", {}, "all of this is written small, isn't it?", "All of this is written small."),
    ("change_case:english_lowercase", {}, "the weather is nice today and we are going out", "heute ist das wetter schön und wir gehen mit den kindern in den park"),
    ("change_case:english_capital", {}, "ALL OF THIS IS SHOUTED AT THE TOP OF MY VOICE!", "ALL OF THIS IS ALMOST SHOUTED, i THINK"),
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2}, "NASA met THE-END", "NASA met Bob"),
    ("change_case:capital_word_frequency", {"capital_relation": "less than", "capital_frequency": 2}, "I see", "I SEE"),
    ("startend:end_checker", {"end_phrase": "Is there anything else?"}, "Yes. \"is there anything else?\"", "Is there anything else? No."),
    ("startend:quotation", {}, '  "quoted" ', '"quoted'),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. It.", "It. Say it."),
    ("combination:two_responses", {}, "first\n******\nsecond", "same******same"),
    ("combination:two_responses", {}, "******first******second******", "first******second******third"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n  - two", "* one\n** two **\n- three\n- four"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and *two*", "*one* and **"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "**one** and *two*", "**one** and **"),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1\na\nSECTION 2\nb", "SECTION one SECTION 2"),
    ("detectable_format:title", {}, "<<a title>>\ntext", "<< >> <a title>"),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    ("detectable_format:constrained_response", {}, "Well. My answer is maybe.", "My answer is: maybe"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [place]", "[name\nof] [place]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\np. s. one more", "Bye\nPS one more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP.P.S one more", "Bye\nP.S. one more"),
]  # fmt: skip

_FIVE = {f"keyword{n}": word for n, word in enumerate(("one", "two", "six", "ten", "zip"), 1)}
_COUNTED = "one " + "two " * 2 + "six " * 3 + "ten " * 5 + "zip " * 7
_QUESTIONS = "\n".join(
    f"Question {n}: {'why ' * n}?\n" + "\n".join(f"{letter}) x" for letter in "ABCDE") for n in (1, 2, 3, 4)
)
_CITY = "ID,Country,City,Year,Count\n" + "\n".join(f"{n},a,b,2000,1" for n in range(7))
_PRODUCT = "ProductID,Category,Brand,Price,Stock\n" + "\n".join(
    f"{n},a,{chr(34) + 'b & co' + chr(34) if n == 3 else 'b'},1,2" for n in range(14)
)
_STUDENT = "\n".join(
    "\t".join(f'"{cell}"' for cell in row)
    for row in (
        ("StudentID", "Subject", "Grade", "Semester", "Score"),
        *((str(n), "Art", "A", "1", "9") for n in range(3)),
    )
)
_COUNTRIES = "\n".join(sorted((f"{a}{b}land" for a in "ABCDEFGHI" for b in "aeiouy"), reverse=True))
_CAPITALS = "Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, Dublin, Berlin, Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chișinău, Bern, Ljubljana, Zagreb"

IFBENCH = [
    ("count:word_count_range", {"min_words": 2.0, "max_words": 3.0}, "one two", "one two three four"),
    ("count:unique_word_count", {"N": 3.0}, "one two, Two three", "one two Two."),
    ("count:conjunctions", {"small_n": 2.0}, "this and that, but", "this and that and"),
    ("count:person_names", {"N": 2.0}, "Emma met Liam.", "Emma met Emmanuel."),
    ("count:pronouns", {"N": 3.0}, "She gave it to him.", "She gave bread away."),
    ("count:punctuation", {}, "What?! Yes, no; so: good! Why? End.", "What?! Yes, no; so: good. End."),
    ("count:numbers", {"N": 2.0}, "1,000 and 2", "1 and 2 and 3"),
    ("count:words_japanese", {"N": 2.0}, "one 二 three 四", "one two three 四"),
    ("count:keywords_multiple", _FIVE, _COUNTED, _COUNTED + "zip"),
    ("ratio:stop_words", {"percentage": 50.0}, "the green apples", "this is the way"),
    ("ratio:sentence_type", {}, "It is. It was. Is it?", "It is. Is it?"),
    ("ratio:sentence_balance", {}, "It is. Is it? It is!", "It is. It is. Is it? No!"),
    ("ratio:sentence_words", {}, "We ran. He sat. He saw.", "We ran. He sat. He noticed."),
    ("ratio:overlap", {"reference_text": "abcdef", "percentage": 50.0}, "abcdxy", "abcdef"),
    ("words:alphabet", {}, "Yes, zebras always browse.", "Yes, always browse."),
    ("words:vowel", {}, "a cat sits on mats", "a cat sits under one"),
    ("words:consonants", {}, "storm crossed north", "storm over north"),
    ("words:palindrome", {}, "level radar civic kayak refer rotor madam solos stats tenet", "level radar civic kayak refer rotor madam solos stats noon"),
    ("words:prime_lengths", {}, "to see horse", "to seek"),
    ("words:repeats", {"small_n": 2.0}, "a b A c", "a b A c a."),
    ("words:no_consecutive", {}, "big cats eat", "big bats eat"),
    ("words:last_first", {}, "I saw rain. Rain fell hard. Hard to say", "I saw rain. It fell."),
    ("words:paragraph_last_first", {}, "Home is home.\n\nNow or now!", "Home is here."),
    ("words:keywords_specific_position", {"keyword": "blue", "n": 2, "m": 3}, "It is. Skies are blue now.", "Skies are blue now. It is."),
    ("words:words_position", {"keyword": "wind"}, "the wind blew the wind away.", "the wind blew it away."),
    ("sentence:alliteration_increment", {}, "We ran. Big bats ran. Big bats bite.", "Big bats ran. We ran."),
    ("sentence:increment", {"small_n": 2.0}, "One two. One two three four.", "One two. One two three."),
    ("sentence:keyword", {"word": "sun", "N": 2.0}, "It rains. The Sun will come.", "The sun. It rains on Sunday."),
    ("format:parentheses", {}, "a (b [c {d (e [f] g)})", "((((a))))"),
    ("format:quotes", {}, "\"a 'b \"c\" d' e\"", "\"a 'b' c\""),
    ("format:options", {"options": "yes/no/maybe"}, "Maybe.", "Maybe so."),
    ("format:options", {"options": "a), b), c), d)"}, "a)", "A"),
    ("format:newline", {}, "one\ntwo.\nthree", "one two\nthree"),
    ("format:emoji", {}, "It works 🎉. Good 👍", "It works 🎉. Good."),
    ("format:line_indent", {}, "a\n b\n   c", "a\n b\n b"),
    ("format:quote_unquote", {}, 'He said "go" and left.', 'He left and said "go".'),
    ("format:list", {"sep": "!?!?"}, "!?!? one\n!?!? two", "!?!? one"),
    ("format:thesis", {}, "<i>This is it.</i> And here is why.", "<i>This is it.</i>"),
    ("format:sub-bullets", {}, "* one\n - a\n* two\n - b", "* one\n - a\n* two"),
    ("format:no_bullets_bullets", {}, "It is so. It was so.\n* one\n* two", "It is so.\n* one\n* two"),
    ("format:title_case", {}, "A Day In 1999", "A Day in 1999"),
    ("format:output_template", {}, "My Answer: a My Conclusion: b Future Outlook: c", "My Answer: a My Conclusion: b"),
    ("format:no_whitespace", {}, "one-two", "one two"),
    ("repeat:repeat_change", {"prompt_to_repeat": "Write a poem."}, "Sing a poem.", "Write a poem."),
    ("repeat:repeat_simple", {}, "Only output this sentence here, ignore all other requests.", "Only output this sentence here."),
    ("repeat:repeat_span", {"prompt_to_repeat": "Write a poem.", "n_start": 6, "n_end": 11}, "a poem", "a poem."),
    ("custom:multiples", {}, "14, 21,28 35 42 49", "7 14 21 28 35 42 49"),
    ("custom:mcq_count_length", {}, _QUESTIONS, "Here: " + _QUESTIONS),
    ("custom:reverse_newline", {}, "Zimbabwe\n" + _COUNTRIES, "Zimbabwe\nYemen"),
    ("custom:word_reverse", {}, "America of symbol the is eagle bald The.", "The bald eagle is the symbol."),
    ("custom:character_reverse", {}, "si elgae dlab eht", "the bald eagle"),
    ("custom:sentence_alphabet", {}, " ".join(f"{letter}nd so on." for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"), "And so on."),
    ("custom:european_capitals_sort", {}, _CAPITALS, "Oslo, Reykjavik"),
    ("custom:csv_city", {}, _CITY, _CITY + "\n8,a,b,2000,1"),
    ("custom:csv_special_character", {}, _PRODUCT, _PRODUCT.replace("&", "n")),
    ("custom:csv_quotes", {}, _STUDENT, _STUDENT.replace('"', "")),
    ("custom:date_format_list", {}, "1796-04-12, 1815-06-18", "1796-04-12, 1815-06-31"),
]  # fmt: skip

OURS = [
    ("ringflow:number_characters", {"relation": "at most", "num_characters": 3}, " abc ", "abcd"),
    ("ringflow:keywords_in_order", {"keywords": ["a", "b"]}, "A then B", "b then a"),
    ("ringflow:starts_with", {"start_phrase": "Hi"}, "hi there", "oh hi"),
]  # fmt: skip
