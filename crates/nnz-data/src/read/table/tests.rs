use super::super::encoding::ColumnKind;
use super::super::missing::Fill;
use super::*;
use nnz_engine::data::Inputs;
use std::fs;

fn open<'a>(open: &'a dyn Fn() -> Result<Stream<'a>>, pairs: &[(&str, &str)]) -> Table<'a> {
    Table::open("t", open, &options(pairs)).unwrap()
}

fn table(encoding: Option<Encoding>) -> Columns {
    match encoding {
        Some(Encoding::Table(columns)) => columns,
        other => panic!("{other:?}"),
    }
}

/// What a model's file keeps of an encoding gives it back.
fn kept(encoding: &Columns) {
    let json = serde_json::to_value(Encoding::Table(encoding.clone())).unwrap();
    assert_eq!(Encoding::from_json(&json).unwrap(), Encoding::Table(encoding.clone()));
}

fn options(pairs: &[(&str, &str)]) -> Options {
    Options(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
}

fn why(text: &str, pairs: &[(&str, &str)]) -> String {
    parse(text.as_bytes(), "t.csv", &options(pairs)).unwrap_err().to_string()
}

#[test]
fn numbers_are_scaled_and_texts_become_inputs() {
    let text = "size,colour,flag,kind\n1,red,no,b\n2,blue,yes,a\n3,green,no,b\n4,red,no,a\n";
    let parts = parse(text.as_bytes(), "t.csv", &options(&[("target", "kind")])).unwrap();
    let (part, encoding) = (parts.train, table(parts.encoding));
    assert_eq!((part.image, part.rows.labels), ([1, 1, 5], vec![1, 0, 1, 0]));
    assert_eq!(part.classes, ["a", "b"]);
    let ColumnKind::Number { mean, std } = encoding.columns[0].kind else { panic!() };
    let Inputs::Floats(v) = part.rows.inputs else { panic!() };
    // The held-out rows affect mean and deviation; the values follow them.
    assert!((v[0] - ((1.0 - mean) / std) as f32).abs() < 1e-7 && std > 0.0);
    assert_eq!(v[1..5], [0.0, 0.0, 1.0, 0.0], "red is the last of three colours, no the first of two flags");
    assert_eq!(v[6..10], [1.0, 0.0, 0.0, 1.0]);
    kept(&encoding);
}

/// Every policy on a column of numbers (1, 2, 2, 7 and a gap) and one of texts (red twice, blue, green and a gap).
#[test]
fn missing_cells_become_what_was_asked_for() {
    let text = "n,t,y\n1,red,0\n2,NA,1\n2,blue,0\n?,red,1\n7,green,0\n";
    let read = |how: &str| {
        let options = options(&[("target", "y"), ("missing", how)]);
        build(open(&|| Ok(Stream::new(text.as_bytes()).unwrap()), &[]), &options, 0.0).unwrap()
    };
    let texts = |v: &[&str]| v.iter().map(|t| (*t).to_string()).collect::<Vec<_>>();
    for (how, number, fill) in [
        ("mean", Fill::Number(3.0), "red"),
        ("median", Fill::Number(2.0), "red"),
        ("mode", Fill::Number(2.0), "red"),
        ("category", Fill::Flag(3.0), "(missing)"),
    ] {
        let parts = read(how);
        let encoding = table(parts.encoding);
        assert_eq!(encoding.columns[0].fill.as_ref(), Some(&number), "{how}");
        assert_eq!(encoding.columns[1].fill, Some(Fill::Text(fill.into())), "{how}");
        let ColumnKind::Number { mean, std } = encoding.columns[0].kind else { panic!() };
        assert!((mean - 3.0).abs() < 1e-12 && (std - 5.5f64.sqrt()).abs() < 1e-12, "of the four that are there");
        let ColumnKind::Category { values } = &encoding.columns[1].kind else { panic!() };
        let Inputs::Floats(v) = &parts.train.rows.inputs else { panic!() };
        let width = encoding.width();
        assert_eq!(v.len(), 5 * width);
        let (Fill::Number(x) | Fill::Flag(x)) = number else { panic!() };
        assert!((f64::from(v[3 * width]) - (x - mean) / std).abs() < 1e-6, "{how}");
        if how == "category" {
            assert_eq!(*values, texts(&["(missing)", "blue", "green", "red"]));
            assert_eq!(v[3 * width..][..width][1..], [1.0, 0.0, 0.0, 0.0, 1.0], "flagged, and red");
            assert_eq!(v[width..][..width][1..], [0.0, 1.0, 0.0, 0.0, 0.0], "a text of its own");
        } else {
            assert_eq!(*values, texts(&["blue", "green", "red"]));
            assert_eq!(v[width..][..width][1..], [0.0, 0.0, 1.0], "{how}");
        }
        kept(&encoding);
    }
    let dropped = read("drop");
    assert_eq!(dropped.train.rows.len(), 3);
    assert!(table(dropped.encoding).columns.iter().all(|c| c.fill.is_none()));
    assert!(why("n,y\nNA,1\n,0\n", &[("target", "y"), ("missing", "drop")]).contains("leaves none"));
    assert!(why("n,m,y\nNA,1,1\n,2,0\n", &[("target", "y"), ("missing", "mean")]).contains("no value at all"));
    assert!(why("n,y\n1,\n2,0\n", &[("target", "y"), ("missing", "mean")]).contains("column `y`: no value"));
    assert!(why(text, &[("target", "y"), ("missing", "zero")]).contains("mean, median, mode, category or drop"));
}

#[test]
fn mean_and_deviation_are_those_of_the_rows_asked_for() {
    let text: String = (0..10).map(|i| format!("{}\t{}\n", 1_600_000_000 + i, i % 2)).collect();
    let stream = || Ok(Stream::new(text.as_bytes()).unwrap());
    let table = open(&stream, &[]);
    assert_eq!((table.delimiter, table.head, table.names.len()), (b'\t', false, 2));
    let column = Column { name: "1".into(), kind: ColumnKind::Number { mean: 0.0, std: 1.0 }, fill: None };
    let classes = vec!["0".into(), "1".into()];
    let columns = vec![column];
    let mut e = Columns { target: "2".into(), classes, columns, missing: None, unseen: None, decimal: None };
    table.fit(&mut e, &[0, 2, 4]).unwrap();
    let ColumnKind::Number { mean, std } = e.columns[0].kind else { panic!() };
    assert!((mean - 1_600_000_002.0).abs() < 1e-6 && (std - (8.0f64 / 3.0).sqrt()).abs() < 1e-6, "{mean} {std}");
}

#[test]
fn what_is_wrong_is_named_with_line_and_column() {
    let t = [("target", "y")];
    for (text, says) in [
        ("", "is empty"),
        ("a,y\n", "no row follows"),
        ("a,y\n1,0\n2\n", "line 3: 1 cells, but the first line has 2"),
        ("a,y\n1,0\n,1\n", "line 3, column `a`: no value"),
        ("a,y\n1,0\nNA,1\n", "line 3, column `a`: no value (`NA`)"),
        ("a,y\n1,\n", "line 2, column `y`: no value"),
        ("a,z\n1,0\n", "no column named `y`"),
        ("a,y,a\n1,0,2\n", "two columns are named `a`"),
        ("y\n1\n", "no column is left"),
    ] {
        assert!(why(text, &t).contains(says), "{text:?}: {}", why(text, &t));
    }
    let many: String = (0..20).map(|i| format!("{i},{}\n", i % 2)).collect();
    assert!(why(&format!("a,y\n{many}x,1\n"), &t).contains("line 22, column `a`: `x` is no number, but 20 of 21"));
    let ids: String = (0..300).map(|i| format!("k{i},{}\n", i % 2)).collect();
    assert!(why(&format!("a,y\n{ids}"), &t).contains("drop=a"));
    assert!(why("a,y\n1,0\n", &[]).contains("--target COL, one of `a`, `y`"));
    assert!(why("a,y\n1,0\n", &[("target", "x")]).contains("columns are `a`, `y`"));
    let bad = parse(b"a,y\n1,0\n\xff,1\n", "t.csv", &options(&t)).unwrap_err().to_string();
    assert!(bad.contains("line 3: not UTF-8"), "{bad}");
}

#[test]
fn numbers_to_predict_are_told_from_classes() {
    let of = |answers: &[&str], more: &[(&str, &str)]| {
        let rows: String = answers.iter().enumerate().map(|(i, a)| format!("{i},{a}\n")).collect();
        let part = parse(format!("x,y\n{rows}").as_bytes(), "t.csv", &options(&[&[("target", "y")], more].concat()));
        part.map(|p| (p.train.rows.targets, p.train.classes))
    };
    assert_eq!(of(&["1.5", "-2", "3"], &[]).unwrap(), (vec![1.5, -2.0, 3.0], vec!["y".to_string()]));
    assert_eq!(of(&["1.0", "2", "1"], &[]).unwrap().1, ["1", "1.0", "2"]);
    assert_eq!(of(&["1", "2", "1"], &[("answers", "numbers")]).unwrap().0, [1.0, 2.0, 1.0]);
    assert_eq!(of(&["1.5", "2.5"], &[("answers", "classes")]).unwrap().1, ["1.5", "2.5"]);
    let many: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    // Five rows each.
    let often = |n: usize| [&many[..n]; 5].concat();
    assert_eq!(of(&often(100), &[]).unwrap().1.len(), 100);
    assert_eq!(of(&often(101), &[]).unwrap().0.len(), 505);
    assert_eq!(of(&often(21)[..104], &[]).unwrap().0.len(), 104);
    assert_eq!(of(&many[..20], &[]).unwrap().1.len(), 20);
    assert_eq!(of(&many, &[]).unwrap().0[4999], 4999.0);
    for (answers, more, says) in [
        (&["1.5", "many"][..], &[("answers", "numbers")][..], "line 3, column `y`: `many` is no number"),
        (&["1", "2"], &[("answers", "both")], "answers=both: expected numbers or classes"),
        (&[&many[..], &["lots"]].concat(), &[], "line 5002, column `y`: `lots`: more than 4096"),
        (&many, &[("answers", "classes")], "more than 4096"),
    ] {
        let e = of(answers, more).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
}

#[test]
fn a_quote_that_never_ends_stops_at_a_bound() {
    let long = std::iter::repeat_n(b"abcdefg\n", 3 << 20).flatten().copied();
    let bytes: Vec<u8> = b"a,y\n1,\"".iter().copied().chain(long).collect();
    let e = parse(&bytes, "t.csv", &options(&[("target", "y")])).unwrap_err().to_string();
    assert!(e.contains("more bytes than are read at once"), "{e}");
}

#[test]
fn names_are_told_from_values() {
    let names = |text: &str, options: &[(&str, &str)]| {
        open(&|| Ok(Stream::new(text.as_bytes()).unwrap()), options).names.join(" ")
    };
    assert_eq!(names("a,b,c\n1,2,x\n", &[]), "a b c");
    assert_eq!(names("5.1,3.5,setosa\n4.9,3.0,setosa\n", &[]), "1 2 3");
    assert_eq!(names("label,0,1\n7,0,255\n", &[]), "label 0 1");
    assert_eq!(names("class,cap\np,x\n", &[]), "class cap");
    assert_eq!(names("p,x\ne,x\n", &[("header", "no")]), "1 2");
    assert_eq!(names("land,1990\nFrance,3\n", &[("header", "yes")]), "land 1990");
    assert_eq!(names("1,2\n", &[]), "1 2");
    assert!(header(&options(&[("header", "maybe")])).is_err());
}

#[test]
fn another_table_is_read_by_the_first_ones_encoding() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let first = put("a.csv", "x,c,y\n1,r,no\n2,g,yes\n3,b,no\n4,r,yes\n5,g,no\n");
    let Found::Parts(parts) = read(&first, &options(&[("target", "y")]), 0.0).unwrap() else { panic!() };
    let encoding = table(parts.encoding);
    // Columns may be in another order, and there may be others.
    let other = put("b.csv", "y,id,c,x\nyes,77,g,2\n");
    let part = read_as(&other, &encoding, &options(&[])).unwrap().train;
    let Inputs::Floats(first) = parts.train.rows.inputs else { panic!() };
    assert_eq!((part.rows.labels, part.rows.inputs), (vec![1], Inputs::Floats(first[4..8].to_vec())));
    let unknown = read_as(&put("c.csv", "x,c,y\n1,teal,no\n"), &encoding, &options(&[])).unwrap_err().to_string();
    assert!(unknown.contains("line 2, column `c`: `teal` does not occur"), "{unknown}");
    let class = read_as(&put("d.csv", "x,c,y\n1,r,perhaps\n"), &encoding, &options(&[])).unwrap_err().to_string();
    assert!(class.contains("`perhaps` is none of the classes"), "{class}");
    let lost = read_as(&put("e.csv", "x,y\n1,no\n"), &encoding, &options(&[])).unwrap_err().to_string();
    assert!(lost.contains("no column named `c`"), "{lost}");
    let asked = ask(&put("f.csv", "x,c\n2,g\n"), &encoding, &options(&[])).unwrap();
    assert_eq!((asked.inputs, asked.rows, asked.answers), (Inputs::Floats(first[4..8].to_vec()), 1, None));
}

/// A text that the first table does not have: refused, none of the texts, or its row left out.
#[test]
fn unseen_texts_become_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let first = put("a.csv", "x,c,two,y\n1,r,p,no\n2,g,q,yes\n3,b,p,no\n4,r,q,yes\n");
    let other = put("b.csv", "x,c,two,y\n1,r,p,no\n9,teal,q,yes\n2,g,?!,yes\n3,b,q,no\n");
    let encoding = |how: &[(&str, &str)]| {
        let options = options(&[&[("target", "y")], how].concat());
        let Found::Parts(parts) = read(&first, &options, 0.0).unwrap() else { panic!() };
        let encoding = table(parts.encoding);
        kept(&encoding);
        encoding
    };
    for asked in [&[][..], &[("unseen", "refuse")]] {
        let e = read_as(&other, &encoding(asked), &options(&[])).unwrap_err().to_string();
        assert!(
            e.contains("line 3, column `c`: `teal` does not occur") && e.contains("--unseen category or drop"),
            "{e}"
        );
    }
    // The model's choice, and that of the reading.
    let all = ask(&first, &encoding(&[]), &options(&[])).unwrap();
    let Inputs::Floats(all) = all.inputs else { panic!() };
    for (model, now) in [(&[("unseen", "category")][..], &[][..]), (&[], &[("unseen", "category")])] {
        let asked = ask(&other, &encoding(model), &options(now)).unwrap();
        let Inputs::Floats(v) = asked.inputs else { panic!() };
        assert_eq!((asked.rows, v.len()), (4, 20));
        assert_eq!(v[5 + 1..][..4], [0.0, 0.0, 0.0, 1.0], "none of three texts");
        assert_eq!(v[10..][..4], all[5..9], "a text that is known");
        assert_eq!(v[10 + 4], 0.5, "half-way between two texts");
        assert!(asked.notes[0].contains("2 cells with a text") && asked.notes[0].contains("`teal` in line 3"));
    }
    for (model, now) in [(&[("unseen", "drop")][..], &[][..]), (&[("unseen", "category")], &[("unseen", "drop")])] {
        let asked = ask(&other, &encoding(model), &options(&[now, &[("target", "y")]].concat())).unwrap();
        let rows: Vec<_> = asked.left.iter().map(|l| (l.row, l.line, &*l.column, &*l.cell)).collect();
        assert_eq!(rows, [(1, 3, "c", "teal"), (2, 4, "two", "?!")]);
        assert_eq!((asked.rows, asked.answers), (2, Some(vec!["no".into(), "no".into()])));
        assert!(asked.notes[0].contains("2 of 4 rows left out"), "{:?}", asked.notes);
        let part = read_as(&other, &encoding(model), &options(now)).unwrap().train;
        assert_eq!((part.rows.labels, part.notes), (vec![0, 0], asked.notes));
    }
    let all_out = put("c.csv", "x,c,two\n1,teal,p\n");
    let e = ask(&all_out, &encoding(&[("unseen", "drop")]), &options(&[])).unwrap_err().to_string();
    assert!(e.contains("every row is left out") && e.contains("`teal`"), "{e}");
    assert!(why("x,y\n1,0\n", &[("target", "y"), ("unseen", "other")]).contains("expected category, drop or refuse"));
}

/// Options that would read the columns in another way than the model knows are not ignored.
#[test]
fn a_model_agrees_with_the_options_of_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    fs::write(&path, "id,x,c,y\n1,1,r,no\n2,2,g,yes\n3,NA,b,no\n4,4,r,yes\n").unwrap();
    let own =
        options(&[("target", "y"), ("drop", "id"), ("missing", "mean"), ("category", "c"), ("answers", "classes")]);
    let Found::Parts(parts) = read(&path, &own, 0.0).unwrap() else { panic!() };
    let encoding = table(parts.encoding);
    assert_eq!(read_as(&path, &encoding, &own).unwrap().train.rows, parts.train.rows, "its own options are no others");
    let renamed = dir.path().join("b.csv");
    fs::write(&renamed, "x,c,answer\n1,r,no\n").unwrap();
    let e = read_as(&renamed, &encoding, &options(&[])).unwrap_err().to_string();
    assert!(e.contains("no column named `y`") && e.contains("--target COL"), "{e}");
    assert_eq!(read_as(&renamed, &encoding, &options(&[("target", "answer")])).unwrap().train.rows.labels, [0]);
    for (key, value) in [("missing", "median"), ("answers", "numbers"), ("drop", "x"), ("category", "x")] {
        let e = read_as(&path, &encoding, &options(&[(key, value)])).unwrap_err().to_string();
        assert!(e.contains(&format!("{key}: the model")), "{e}");
    }
    // A model that was trained without missing cells leaves such rows out, if that is asked for.
    let without = Columns { missing: None, ..encoding };
    let without =
        Columns { columns: without.columns.into_iter().map(|c| Column { fill: None, ..c }).collect(), ..without };
    let e = ask(&path, &without, &options(&[])).unwrap_err().to_string();
    assert!(
        e.contains("line 4, column `x`: no value (`NA`)") && e.contains("--missing drop") && !e.contains("mean"),
        "{e}"
    );
    let asked = ask(&path, &without, &options(&[("missing", "drop")])).unwrap();
    assert_eq!((asked.rows, asked.left[0].row, asked.left[0].line), (3, 2, 4));
}

#[test]
fn commas_before_decimals_are_read_or_told() {
    let t = [("target", "y")];
    let numbers = |text: &str, pairs: &[(&str, &str)]| {
        let parts = parse(text.as_bytes(), "t", &options(pairs)).unwrap();
        (parts.train.rows, table(parts.encoding).decimal)
    };
    let (points, mark) = numbers("a;b;y\n3.14;1;2.5\n-2.5;2;1.5\n0.5;3;7\n", &t);
    assert_eq!(mark, None);
    for text in ["a;b;y\n3,14;1;2,5\n-2,5;2;1,5\n0,5;3;7\n", "a\tb\ty\n3,14\t1\t2,5\n-2,5\t2\t1,5\n0,5\t3\t7\n"] {
        assert_eq!(numbers(text, &t), (points.clone(), Some(Decimal::Comma)));
        assert_eq!(numbers(text, &[t[0], ("decimal", "comma")]), (points.clone(), Some(Decimal::Comma)));
    }
    // Quoted, between commas; and without names, where commas are as many as semicolons.
    assert_eq!(numbers("a,b,y\n\"3,14\",1,\"2,5\"\n\"-2,5\",2,\"1,5\"\n\"0,5\",3,7\n", &t).0, points);
    assert_eq!(numbers("3,14;1;2,5\n-2,5;2;1,5\n0,5;3;7\n", &[("target", "3")]).0, points);
    assert_eq!(separator(b"a,b;c\n"), b',');
    // Groups of three digits are told, in a column and in the answers.
    for (text, says) in [
        ("a;y\n1,234;0\n2,345;1\n", "line 2, column `a`: `1,234` may have decimals or groups"),
        ("a;y\n1,25;0\n2.5;1\n", "line 2, column `a`: `1,25` has a decimal comma, but `2.5` in line 3 a decimal point"),
        ("a;y\n1.234,5;0\n2.345,6;1\n", "`1.234,5` is no number"),
        ("a;y\n1;1.234,5\n2;2.345,6\n", "line 2, column `y`: `1.234,5` is no number; write it without marks"),
        ("a;y\n1;1,234\n2;2,345\n", "line 2, column `y`: `1,234` may have"),
    ] {
        let e = why(text, &t);
        assert!(e.contains(says), "{text:?}: {e}");
    }
    let groups = "a;y\n1,234;0\n2,345;1\n";
    let ColumnKind::Number { mean, .. } =
        table(parse(groups.as_bytes(), "t", &options(&[t[0], ("decimal", "comma")])).unwrap().encoding).columns[0]
            .kind
            .clone()
    else {
        panic!()
    };
    assert!(mean < 3.0);
    // With a point said, such cells are no numbers, and no texts without a word.
    assert!(why(groups, &[t[0], ("decimal", "point")]).contains("`1,234` is no number, but 2 of 2 cells"));
    let texts = table(parse(groups.as_bytes(), "t", &options(&[t[0], ("category", "a")])).unwrap().encoding);
    assert!(matches!(&texts.columns[0].kind, ColumnKind::Category { values } if values[0] == "1,234"));
    assert!(why(groups, &[t[0], ("decimal", "dot")]).contains("expected point or comma"));
    // Texts with commas stay texts.
    let (_, mark) = numbers("a;y\n1,2;0\nx;1\n1,2,3;0\n", &t);
    assert_eq!(mark, None);
}

#[test]
fn a_first_line_of_values_is_hinted_at() {
    let e = why("A,B,A,y\nB,B,A,x\n", &[("target", "4")]);
    assert!(e.contains("two columns are named `A`") && e.contains("?header=no"), "{e}");
    assert!(parse(b"A,B,A,y\nB,B,A,x\n", "t", &options(&[("target", "4"), ("header", "no")])).is_ok());
}
