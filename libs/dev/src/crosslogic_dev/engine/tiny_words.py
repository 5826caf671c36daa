"""The words that the tiny model speaks."""

_TEXT = """
about above across after again air all almost along also always among an and animal answer any apple are arm
around as ask at away back ball bank bark base be bean bear beat because become bed been before begin behind bell
below bench beside best better between big bird black blue boat body bone book both bottom bowl box boy branch
bread break bridge bright bring broad brook brother brown build burn bus but butter button by cake call calm camp
can candle cap car card care carry case cat catch cause cell chair chalk chance change cheese child circle city
class clay clean clear climb clock close cloth cloud coal coast coat cold color come common cook cool copper corn
corner cotton count country course cover cow crop cross crowd cup current cut dance dark day dear deep deer desert
desk did different dinner dish do dog door down draw dream dress drink drive drop dry duck during dust each ear
early earth east easy eat edge egg eight else empty end engine enough equal even evening ever every eye face fact
fair fall family far farm fast father feather feel feet fell felt fence few field fight fill final find fine
finger fire first fish five flame flat floor flour flow flower fly follow food foot for forest fork form found
four fox free fresh friend frog from front fruit full game garden gate gave get giant girl give glad glass go goat
gold good grain grand grass gray great green ground group grow had half hall hammer hand happy hard has hat have
he head hear heart heat heavy help hen her here high hill him his hold hole home honey hope horse hot hour house
how huge ice idea if in iron island it its jar join jump just keep key kind king kitchen kite knew knot know lake
lamp land large last late laugh leaf learn least leave left leg lemon less let letter level life lift light like
line lion list listen little live long look lost loud love low lunch machine made make man many map mark market
may me meadow meal mean meet melt men metal middle might mile milk mill mind mine minute mirror moon more morning
most mother mountain mouse mouth move much music must my name near neck need nest net never new next night nine no
north nose not note now number oak ocean of off oil old on once one onion only open or orange other our out over
owl own page paint pair paper park part past path pear pen people pepper piano pick picture piece pig pine place
plain plan plant plate play pocket point pond pool poor potato power press pull push put queen question quick
quiet rabbit rain ran reach read ready red rest rice rich ride right ring rise river road rock roof room root rope
rose round row run said sail salt same sand sang sat saw say school sea season seat second see seed seem sell send
seven shadow shape sharp she sheep shell ship shoe shop short should show side silk silver simple since sing
sister sit six size skin sky sleep slow small smell smile smoke snow so soap soft soil some son song soon sound
soup south space speak spoon spring square stable stand star start station stay steam steel step still stone stood
stop store storm story street strong such sugar summer sun sure swim table tail take talk tall tea tell ten than
that the their them then there these they thick thin thing think third this those thousand thread three through
time tin to today together told tomato too took top touch toward town train travel tree true try turn twelve two
under until up us use valley very village voice wagon walk wall want warm was wash water wave way we weather week
well went were west wet what wheat wheel when where which while white who whole why wide wild will wind window
wing winter wire wise with wolf woman wonder wood wool word work world would write yard year yellow yes yet you
young your zebra
"""

WORDS = tuple(_TEXT.split())
