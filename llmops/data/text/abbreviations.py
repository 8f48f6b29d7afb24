"""Abbreviations whose full stop does not end a sentence, in lower case and without the stop.

Most are the segmentation suppressions of Unicode's CLDR 46 (common/segments: de, en, es, fr, it, pt, ru; Unicode
License v3), without those that are words or often end sentences (`am.`, `test.`, `a.m.`, `etc.`), plus the usual ones
of Dutch, Polish and the Scandinavian languages. They are one set, because a short answer does not reveal its language.
Single letters (`z. B.`, `M. Dupont`) and runs of them (`z.B.`, `S.p.A.`) need no entry.
"""

# They end no sentence, whatever follows.
_GENERAL = """
    mr mrs ms dr prof st mt cf vs viz inc ltd capt sgt lt rev hon jr dept mgr
    bzw bspw evtl ggf ggfs inkl exkl einschl zzgl sog vgl gem hr hrn fr frl dipl ing hrsg ehem entspr urspr allg insb
    österr schweiz südd v.chr n.chr
    mm mlle mme p.ex ex éd édit coll adr réf hôp gouv
    sr sra srta srs sres sras dra drs dña ud uds vd vds p.ej ej avda cía dpto depto excmo excma ilmo ilma ldo lda lic
    rvdo sdad sta sto vda ee rr ff jj
    sig sigg dott dott.ssa avv geom rag arch cfr spett egr
    profa exmo exma ltda
    dhr mevr mw ir bijv evt incl excl resp zgn
    np tzn tj inż mgr św
    t.ex bl.a f.eks fr.o.m t.o.m
    им проф напр ул акад
"""
# Only before a number: "No. 5", but "He said no. I left."
_COUNTS = """
    no nos nr n.º fig figs vol p pp ext tel approx ca art sec
    abs abb bd aufl kap str std tél env chap
    num núm pág págs pag pagg cap aprox tab tav sez
    blz godz kl стр рис тел гл
"""
_MONTHS = """
    jan feb mar apr jun jul aug sep sept oct nov dec
    mär mrz okt dez janv févr avr juil déc ene abr ago dic gen giu lug ott fev dez
    янв февр апр авг сент окт нояб дек
"""
ABBREVIATIONS, NUMBER_ABBREVIATIONS = frozenset(_GENERAL.split()), frozenset([*_COUNTS.split(), *_MONTHS.split()])
